//! Compares two devices: reads the outputs of `tests/cuda/compare.sh` for the same small pipeline on the
//! CPU and on a GPU, prints their distances, and exits 1 if one is beyond its bound.
//!
//! ```text
//! agreement CPU-FOLDER CUDA-FOLDER
//! ```
//! The bounds allow for TF32, which keeps 10 bits of each factor (5e-4), and for other orders of
//! summation. They are tight enough that a wrong derivative shows in the first gradient.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use capstan_plan::results::TrainingStep;
use serde_json::Value;

/// Stages that start from equal weights and read equal data on every device.
const STAGES: [&str; 2] = ["blip_web", "clip_web"];
/// Bound for the loss of the first step, relative.
const FIRST_LOSS: f64 = 2e-3;
/// Bound for the gradient norm of the first step, relative.
const FIRST_GRADIENT: f64 = 1e-2;
/// Steps whose losses are compared. Later losses diverge, as after any difference in rounding.
const STEPS: usize = 8;
/// Bound for the loss of each of these steps, relative.
const LOSS: f64 = 2e-2;
/// Bound for cosines and probabilities of one filter on one picture, absolute.
const SCORE: f64 = 1e-2;
/// Bound for the share of pictures with different captions: nearly equal beams can swap.
const OTHER_CAPTIONS: f64 = 0.05;

/// The distance of two devices in one figure, and its bound.
#[derive(Debug)]
struct Distance {
    what: String,
    is: f64,
    may_be: f64,
}

impl Distance {
    fn new(what: impl Into<String>, is: f64, may_be: f64) -> Self {
        let what = what.into();
        Self { what, is, may_be }
    }

    /// Whether the distance is within the bound. NaN is beyond every bound.
    fn holds(&self) -> bool {
        self.is <= self.may_be
    }
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second] = arguments.as_slice() else {
        eprintln!("usage: agreement CPU-FOLDER CUDA-FOLDER");
        return Ok(ExitCode::from(2));
    };
    let (first, second) = (Path::new(first), Path::new(second));
    let mut distances = Vec::new();
    for stage in STAGES {
        distances.extend(training(
            stage,
            &steps(first, stage)?,
            &steps(second, stage)?,
        )?);
    }
    let lines = |name: &str| anyhow::Ok((lines(&first.join(name))?, lines(&second.join(name))?));
    let (one, other): (Vec<Value>, Vec<Value>) = lines("matches.jsonl")?;
    distances.extend(scores(&one, &other)?);
    let (one, other): (Vec<Value>, Vec<Value>) = lines("captions.jsonl")?;
    distances.push(captions(&one, &other)?);
    for distance in &distances {
        let Distance { what, is, may_be } = distance;
        let verdict = if distance.holds() { "" } else { "  TOO FAR" };
        println!("{what:<48} {is:9.2e}  may be {may_be:.0e}{verdict}");
    }
    Ok(if distances.iter().all(Distance::holds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads JSON values, one per line.
fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(named)?;
    let values = text.lines().map(serde_json::from_str);
    values.collect::<Result<_, _>>().with_context(named)
}

/// The steps of a stage, from the only run in the demo's folder.
fn steps(demo: &Path, stage: &str) -> Result<Vec<TrainingStep>> {
    let runs = demo.join("metrics");
    let named = || runs.display().to_string();
    let mut folders = std::fs::read_dir(&runs).with_context(named)?;
    let run = folders.next().with_context(named)??.path();
    lines(&run.join(format!("{stage}.jsonl")))
}

fn training(stage: &str, one: &[TrainingStep], other: &[TrainingStep]) -> Result<Vec<Distance>> {
    ensure!(
        one.len() >= STEPS && one.len() == other.len(),
        "{stage}: {} steps on one device, {} on the other",
        one.len(),
        other.len()
    );
    let pairs = || one.iter().zip(other).take(STEPS);
    let losses = pairs().map(|(a, b)| relative(a.loss, b.loss));
    let named = |what: &str| format!("{stage}: {what}");
    Ok(vec![
        Distance::new(
            named("loss of the first step"),
            relative(one[0].loss, other[0].loss),
            FIRST_LOSS,
        ),
        Distance::new(
            named("gradient of the first step"),
            relative(one[0].gradient_norm, other[0].gradient_norm),
            FIRST_GRADIENT,
        ),
        Distance::new(named("loss, the largest of 8 steps"), largest(losses), LOSS),
    ])
}

/// The largest differences of cosines and of probabilities.
fn scores(one: &[Value], other: &[Value]) -> Result<Vec<Distance>> {
    ensure!(!one.is_empty(), "no scores to compare");
    ensure!(
        one.len() == other.len(),
        "{} scores on one device, {} on the other",
        one.len(),
        other.len()
    );
    let of = |key: &str, what: &str| {
        let number = |value: &Value| value[key].as_f64().unwrap_or(f64::NAN);
        let apart = one
            .iter()
            .zip(other)
            .map(|(a, b)| (number(a) - number(b)).abs());
        Distance::new(format!("filter: {what}"), largest(apart), SCORE)
    };
    Ok(vec![
        of("itc", "cosine, the largest"),
        of("itm", "probability, the largest"),
    ])
}

/// The share of pictures with different captions.
fn captions(one: &[Value], other: &[Value]) -> Result<Distance> {
    let pictures = |lines: &[Value]| -> BTreeSet<String> {
        lines.iter().map(|line| line["image"].to_string()).collect()
    };
    ensure!(!one.is_empty(), "no captions to compare");
    ensure!(
        pictures(one) == pictures(other),
        "captions are of different pictures"
    );
    let differing = one.iter().zip(other).filter(|(a, b)| a != b).count();
    let share = differing as f64 / one.len() as f64;
    Ok(Distance::new(
        "captioner: share of different captions",
        share,
        OTHER_CAPTIONS,
    ))
}

fn relative(one: f64, other: f64) -> f64 {
    (one - other).abs() / one.abs()
}

/// The largest distance. NaN stays NaN, and is beyond every bound.
fn largest(distances: impl Iterator<Item = f64>) -> f64 {
    distances.fold(0.0, |most, next| {
        if next.is_nan() || next > most {
            next
        } else {
            most
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(loss: f64, gradient_norm: f64) -> TrainingStep {
        TrainingStep {
            step: 0,
            data_epoch: 0,
            learning_rate: 0.1,
            loss,
            parts: [("itc".to_owned(), loss)].into(),
            gradient_norm,
            step_seconds: 0.1,
            all_reduce_seconds: 0.01,
        }
    }

    fn broken(distances: &[Distance]) -> Vec<&str> {
        let broken = distances.iter().filter(|distance| !distance.holds());
        broken.map(|distance| &*distance.what).collect()
    }

    #[test]
    fn steps_with_other_rounding_agree_and_with_another_derivative_do_not() {
        let one = vec![step(2.0, 5.0); STEPS];
        let training = |other: &[TrainingStep]| training("blip_web", &one, other).unwrap();
        assert!(broken(&training(&vec![step(2.001, 5.01); STEPS])).is_empty());
        let other = vec![step(2.0, 5.2); STEPS];
        assert_eq!(
            broken(&training(&other)),
            ["blip_web: gradient of the first step"]
        );
        let mut other = one.clone();
        other[5].loss = f64::NAN;
        assert_eq!(
            broken(&training(&other)),
            ["blip_web: loss, the largest of 8 steps"]
        );
        other.pop();
        assert!(super::training("blip_web", &one, &other).is_err());
    }

    #[test]
    fn scores_are_compared_one_by_one() {
        let one = [
            json!({ "itc": 0.5, "itm": 0.9 }),
            json!({ "itc": 0.1, "itm": 0.2 }),
        ];
        let near = [
            json!({ "itc": 0.501, "itm": 0.9 }),
            json!({ "itc": 0.1, "itm": 0.207 }),
        ];
        assert!(broken(&scores(&one, &near).unwrap()).is_empty());
        let far = [one[1].clone(), one[0].clone()];
        assert_eq!(broken(&scores(&one, &far).unwrap()).len(), 2);
        let none = [json!({ "itc": 0.5 }), one[1].clone()];
        assert_eq!(
            broken(&scores(&one, &none).unwrap()),
            ["filter: probability, the largest"]
        );
        assert!(scores(&one, &one[..1]).is_err());
    }

    #[test]
    fn captions_may_differ_on_few_pictures() {
        let caption = |image: usize, text: &str| json!({ "image": image, "caption": text });
        let one: Vec<_> = (0..40).map(|image| caption(image, "a red ball")).collect();
        let mut other = one.clone();
        other[3] = caption(3, "a ball");
        assert!(captions(&one, &other).unwrap().holds());
        for (image, row) in other.iter_mut().enumerate().take(4) {
            *row = caption(image, "a ring");
        }
        assert!(!captions(&one, &other).unwrap().holds());
        assert!(captions(&one, &other[1..]).is_err());
    }
}
