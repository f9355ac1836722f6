//! The training curve: losses averaged over at most 200 stretches of steps.

use std::collections::BTreeMap;

use capstan_plan::results::{CurvePoint, TrainingStep};

/// Stretches of a curve at most.
const MAX_POINTS: u64 = 200;

/// Sums of the losses, stretch by stretch. Part of a checkpoint, so a resumed training draws the
/// curve of the undisturbed one.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    steps_per_point: u64,
    /// `loss`, then the parts.
    names: Vec<String>,
    /// `[points, 1 + names]`: steps counted, then the sum of each loss.
    sums: Vec<f64>,
}

impl Curve {
    /// A curve of `steps` steps and the loss parts `parts`.
    pub fn new(steps: u64, parts: &[&str]) -> Self {
        let names = ["loss"]
            .iter()
            .chain(parts)
            .map(|name| (*name).to_owned())
            .collect();
        Self {
            steps_per_point: steps.div_ceil(MAX_POINTS).max(1),
            names,
            sums: Vec::new(),
        }
    }

    fn stride(&self) -> usize {
        self.names.len() + 1
    }

    /// Counts a step; steps come in order.
    pub fn add(&mut self, step: &TrainingStep) {
        let point = (step.step / self.steps_per_point) as usize;
        let stride = self.stride();
        self.sums.resize((point + 1) * stride, 0.0);
        let (counted, sums) = self.sums[point * stride..]
            .split_first_mut()
            .expect("a point was just made");
        *counted += 1.0;
        for (sum, name) in sums.iter_mut().zip(&self.names) {
            *sum += if name == "loss" {
                step.loss
            } else {
                step.parts.get(name).copied().unwrap_or(0.0)
            };
        }
    }

    /// The sums, for a checkpoint.
    pub fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// Goes on from the sums of a checkpoint; `false` where they are of another curve.
    pub fn restore(&mut self, sums: Vec<f64>) -> bool {
        let fits = sums.len().is_multiple_of(self.stride());
        if fits {
            self.sums = sums;
        }
        fits
    }

    /// The means of each stretch.
    pub fn points(&self) -> Vec<CurvePoint> {
        let mut last = 0.0;
        let points = self.sums.chunks_exact(self.stride()).map(|point| {
            last += point[0];
            let means: BTreeMap<String, f64> = self
                .names
                .iter()
                .zip(&point[1..])
                .map(|(name, sum)| (name.clone(), sum / point[0].max(1.0)))
                .collect();
            CurvePoint {
                step: (last as u64).saturating_sub(1),
                means,
            }
        });
        points.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> TrainingStep {
        TrainingStep {
            step,
            data_epoch: 0,
            learning_rate: 1e-3,
            loss: step as f64,
            parts: [("itc".to_owned(), 2.0 * step as f64)].into(),
            gradient_norm: 1.0,
            step_seconds: 0.1,
            all_reduce_seconds: 0.01,
        }
    }

    #[test]
    fn stretches_are_averaged_and_bounded() {
        let mut curve = Curve::new(1000, &["itc"]);
        (0..1000).for_each(|s| curve.add(&step(s)));
        let points = curve.points();
        assert_eq!(points.len(), 200);
        assert_eq!(points[0].step, 4);
        assert_eq!(points[0].means["loss"], 2.0);
        assert_eq!(points[199].step, 999);
        assert_eq!(points[199].means["itc"], 2.0 * 997.0);
    }

    #[test]
    fn a_restored_curve_goes_on() {
        let mut whole = Curve::new(30, &["itc"]);
        (0..30).for_each(|s| whole.add(&step(s)));
        let mut first = Curve::new(30, &["itc"]);
        (0..13).for_each(|s| first.add(&step(s)));
        let mut second = Curve::new(30, &["itc"]);
        assert!(second.restore(first.sums().to_vec()));
        (13..30).for_each(|s| second.add(&step(s)));
        assert_eq!(whole, second);
        assert!(!second.restore(vec![1.0]));
    }
}
