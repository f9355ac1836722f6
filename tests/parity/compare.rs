//! Comparison of outputs, element by element.

use super::array::{Array, Values};
use super::case::Case;
use super::{Outputs, Setup};
use std::fmt;

/// The output with the largest error relative to its tolerance.
#[derive(Debug, Default)]
pub struct Worst {
    output: String,
    error: f64,
    share: f64,
    /// Outputs that the setup does not compare.
    skipped: usize,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worst {}, max error {:.1e}", self.output, self.error)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} outputs of integers not compared"),
        }
    }
}

/// Compares every expected output with the computed one of the same name.
pub fn compare(case: &Case, outputs: &Outputs, setup: &Setup) -> Result<Worst, String> {
    let mut worst = Worst {
        share: -1.0,
        ..Worst::default()
    };
    let mut differences = Vec::new();
    for (name, expected) in &case.expected {
        let Some((_, found)) = outputs.iter().find(|(output, _)| output == name) else {
            differences.push(format!("`{name}` was not computed"));
            continue;
        };
        if matches!(expected.values, Values::Int(_)) && !setup.compares_integers(case.has_weights())
        {
            worst.skipped += 1;
            continue;
        }
        match compare_output(case, name, expected, found, setup) {
            Ok((error, share)) if share > worst.share => {
                worst = Worst {
                    output: name.clone(),
                    error,
                    share,
                    ..worst
                }
            }
            Ok(_) => {}
            Err(difference) => differences.push(format!("`{name}` {difference}")),
        }
    }
    if differences.is_empty() {
        Ok(worst)
    } else {
        Err(differences.join("; "))
    }
}

/// The largest error, and the largest error as a share of its tolerance.
fn compare_output(
    case: &Case,
    name: &str,
    expected: &Array,
    found: &Array,
    setup: &Setup,
) -> Result<(f64, f64), String> {
    if expected.shape != found.shape {
        return Err(format!(
            "has shape {:?}, expected {:?}",
            found.shape, expected.shape
        ));
    }
    let stated = case.tolerance(name);
    let mask = case.mask(name)?.map(|mask| mask.ints());
    let values = |array: &Array| -> Vec<f64> {
        match &array.values {
            Values::Float(values) => values.clone(),
            Values::Int(values) => values.iter().map(|v| *v as f64).collect(),
        }
    };
    let (expected_values, found_values) = (values(expected), values(found));
    let each = mask.map_or(1, |mask| expected_values.len() / mask.len());
    // Integers must be equal unless the case sets a tolerance for them (bytes of pictures).
    let exact = matches!(expected.values, Values::Int(_)) && stated == [1e-4, 1e-4];
    let [absolute, relative] = setup.tolerance(stated, case.has_weights());
    let (mut error, mut share) = (0.0f64, 0.0f64);
    for (index, (a, b)) in found_values.iter().zip(&expected_values).enumerate() {
        if mask.is_some_and(|mask| mask[index / each] != 1) {
            continue;
        }
        let difference = (a - b).abs();
        let limit = if exact {
            0.0
        } else {
            absolute + relative * b.abs()
        };
        // NaN compares as false, so it is checked explicitly.
        if difference.is_nan() || limit.is_nan() || difference > limit {
            return Err(format!(
                "differs at {index}: {a}, expected {b} (off by {difference:.2e}, limit {limit:.1e})"
            ));
        }
        error = error.max(difference);
        share = share.max(if limit == 0.0 {
            0.0
        } else {
            difference / limit
        });
    }
    Ok((error, share))
}
