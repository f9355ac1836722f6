//! Positions of picture tokens for another number of patches than a model was trained with.
//!
//! Both forms resample the table of positions by bicubic convolution, with pixel centres at half
//! integers (`align_corners = false` of PyTorch). Rows before the grid, such as the class token's,
//! are kept.

/// How a table is resampled. The two differ where the table shrinks, and in the kernel's constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// Kernel of -0.75 over four neighbours: Hugging Face and BLIP (`interpolate_pos_encoding`).
    Plain,
    /// Kernel of -0.5, widened where the table shrinks: open_clip (`resize_pos_embed`).
    Antialias,
}

impl Resample {
    /// The constant `a` of the kernel (Keys 1981, equation 4).
    fn constant(self) -> f64 {
        match self {
            Self::Plain => -0.75,
            Self::Antialias => -0.5,
        }
    }

    /// The old cells that make up cell `at` of the new axis, with their weights.
    fn taps(self, at: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
        let scale = from as f64 / to as f64;
        let centre = (at as f64 + 0.5) * scale;
        match self {
            Self::Plain => {
                let left = (centre - 0.5).floor();
                let tap = |offset: i32| {
                    let cell = left + f64::from(offset);
                    let weight = kernel(centre - 0.5 - cell, self.constant());
                    (cell.clamp(0.0, (from - 1) as f64) as usize, weight)
                };
                (-1..=2).map(tap).collect()
            }
            Self::Antialias => {
                let stretch = scale.max(1.0);
                let support = 2.0 * stretch;
                let first = (centre - support + 0.5).max(0.0) as usize;
                let end = ((centre + support + 0.5) as usize).min(from);
                let tap = |cell: usize| {
                    let distance = (cell as f64 - centre + 0.5) / stretch;
                    (cell, kernel(distance, self.constant()))
                };
                let taps: Vec<_> = (first..end).map(tap).collect();
                let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
                taps.into_iter().map(|(c, w)| (c, w / total)).collect()
            }
        }
    }
}

/// The matrix `[to, from]` that maps the positions of a grid to those of another; grids are
/// `[rows, columns]`, their cells numbered row by row.
pub fn matrix(from: [usize; 2], to: [usize; 2], resample: Resample) -> Vec<f32> {
    let taps = |axis: usize| -> Vec<Vec<(usize, f64)>> {
        let cells = 0..to[axis];
        cells
            .map(|at| resample.taps(at, from[axis], to[axis]))
            .collect()
    };
    let (rows, columns) = (taps(0), taps(1));
    let cells = from[0] * from[1];
    let mut matrix = vec![0f64; to[0] * to[1] * cells];
    let lines = matrix.chunks_exact_mut(cells);
    let places = rows
        .iter()
        .flat_map(|row| columns.iter().map(move |column| (row, column)));
    for (line, (row, column)) in lines.zip(places) {
        for (y, down) in row {
            for (x, across) in column {
                line[y * from[1] + x] += down * across;
            }
        }
    }
    matrix.into_iter().map(|weight| weight as f32).collect()
}

/// The table of positions for a grid of `to` cells.
///
/// - `table`: `[lead + from, width]`.
/// - `lead`: rows before the grid, which are kept.
///
/// Returns `[lead + to, width]`.
///
/// # Panics
/// When the table's size does not fit.
pub fn resize(
    table: &[f32],
    width: usize,
    lead: usize,
    from: [usize; 2],
    to: [usize; 2],
    resample: Resample,
) -> Vec<f32> {
    let cells = from[0] * from[1];
    assert_eq!(table.len(), (lead + cells) * width, "size of the table");
    let (kept, grid) = table.split_at(lead * width);
    let mut resized = kept.to_vec();
    for line in matrix(from, to, resample).chunks_exact(cells) {
        let mut sum = vec![0f32; width];
        let weighted = line
            .iter()
            .zip(grid.chunks_exact(width))
            .filter(|(weight, _)| **weight != 0.0);
        for (weight, row) in weighted {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        resized.extend(sum);
    }
    resized
}

/// The side of a square grid of this many cells, if there is one.
pub fn square(cells: usize) -> Option<usize> {
    let side = cells.isqrt();
    (side * side == cells).then_some(side)
}

/// The bicubic kernel at a distance in cells.
fn kernel(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.interpolate(torch.tensor([[[[0., 1, 4, 9]]]]), size=(1, n),
    /// mode="bicubic", align_corners=False, antialias=a)`, torch 2.15.
    #[test]
    fn tables_agree_with_pytorch() {
        let table = [0.0, 1.0, 4.0, 9.0];
        for (resample, to, expected) in CASES {
            let resized = resize(&table, 1, 0, [1, 4], [1, *to], *resample);
            for (found, expected) in resized.iter().zip(*expected) {
                assert!((found - expected).abs() < 1e-5, "{resample:?} {resized:?}");
            }
            assert_eq!(resized.len(), *to);
        }
    }

    #[expect(clippy::excessive_precision, reason = "as the reference prints them")]
    const CASES: &[(Resample, usize, &[f32])] = &[
        (
            Resample::Plain,
            6,
            &[-0.086806, 0.218750, 1.430555, 3.152778, 6.781250, 9.434029],
        ),
        (Resample::Plain, 3, &[0.091435, 2.125000, 8.334492]),
        (Resample::Plain, 2, &[0.218750, 6.781250]),
        (
            Resample::Antialias,
            6,
            &[-0.065789, 0.294118, 1.361111, 3.361111, 6.823530, 9.328948],
        ),
        (Resample::Antialias, 3, &[0.075515, 2.359195, 7.935927]),
        (Resample::Antialias, 2, &[0.603306, 6.082644]),
    ];

    #[test]
    fn the_lead_is_kept_and_an_equal_grid_is_copied() {
        let table: Vec<f32> = (0..10).map(|i| i as f32).collect();
        for resample in [Resample::Plain, Resample::Antialias] {
            let same = resize(&table, 2, 1, [2, 2], [2, 2], resample);
            assert_eq!(same, table);
            let wider = resize(&table, 2, 1, [2, 2], [2, 3], resample);
            assert_eq!(wider[..2], table[..2]);
            assert_eq!(wider.len(), 14);
        }
    }

    #[test]
    fn weights_of_a_cell_sum_to_one() {
        for resample in [Resample::Plain, Resample::Antialias] {
            for to in [[3, 9], [14, 2], [1, 1]] {
                for line in matrix([7, 5], to, resample).chunks_exact(35) {
                    let sum: f32 = line.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-5, "{resample:?} {to:?}: {sum}");
                }
            }
        }
    }

    #[test]
    fn only_squares_have_a_side() {
        assert_eq!(square(196), Some(14));
        assert_eq!(square(0), Some(0));
        assert_eq!(square(48), None);
    }
}
