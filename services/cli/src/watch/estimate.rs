//! The remaining time of a run.
//!
//! Every stage has a prior: the seconds that it took on two cores of the machine on which the
//! shipped pipeline was tuned. Progress corrects the priors. A stage that has progress is
//! extrapolated from its own seconds of work; time in which it waits for a turn is not among them.
//! The prior of a stage without progress is scaled by the ratio of measured to prior seconds over
//! the stages of its group: trainings, or all others.

use std::collections::BTreeMap;

use capstan_plan::Pipeline;
use capstan_plan::id::StageName;
use capstan_plan::stage::{Family, Kind, Objective, Stage, Train};
use capstan_report::arm::family;

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Share done, 0 to 1.
    pub share: f64,
    /// Seconds of work so far. Waiting does not count.
    pub seconds: f64,
}

/// Estimates the remaining time of a pipeline.
#[derive(Debug)]
pub struct Estimate {
    stages: Vec<(StageName, bool, f64)>,
}

/// Below this share a stage is not extrapolated from its own progress.
const LEAST_SHARE: f64 = 0.04;

impl Estimate {
    /// The priors of this pipeline.
    pub fn new(pipeline: &Pipeline) -> Self {
        let stages = pipeline
            .stages
            .iter()
            .map(|stage| {
                let training = matches!(stage.kind, Kind::Train(_));
                (stage.name.clone(), training, prior_seconds(stage, pipeline))
            })
            .collect();
        Self { stages }
    }

    /// Seconds that remain.
    ///
    /// - `seen`: the stages that have begun.
    pub fn remaining_seconds(&self, seen: &BTreeMap<StageName, Seen>) -> f64 {
        let factors = [self.factor(seen, false), self.factor(seen, true)];
        let all = self.overall(seen);
        self.stages
            .iter()
            .map(|(name, training, prior)| match seen.get(name) {
                Some(now) if now.share >= 1.0 => 0.0,
                Some(now) if now.share >= LEAST_SHARE => {
                    now.seconds / now.share * (1.0 - now.share)
                }
                started => {
                    let factor = factors[usize::from(*training)].or(all).unwrap_or(1.0);
                    let spent = started.map_or(0.0, |now| now.seconds);
                    (prior * factor - spent).max(0.0)
                }
            })
            .sum()
    }

    /// Measured over prior seconds of the trainings, or of all other stages.
    fn factor(&self, seen: &BTreeMap<StageName, Seen>, training: bool) -> Option<f64> {
        self.ratio(seen, |is_training| is_training == training)
    }

    fn overall(&self, seen: &BTreeMap<StageName, Seen>) -> Option<f64> {
        self.ratio(seen, |_| true)
    }

    fn ratio(
        &self,
        seen: &BTreeMap<StageName, Seen>,
        is_counted: impl Fn(bool) -> bool,
    ) -> Option<f64> {
        let (mut measured, mut expected) = (0.0, 0.0);
        for (name, training, prior) in &self.stages {
            if let Some(now) = seen.get(name).filter(|_| is_counted(*training))
                && now.share >= LEAST_SHARE
            {
                measured += now.seconds;
                expected += prior * now.share;
            }
        }
        (expected > 0.5).then(|| measured / expected)
    }
}

/// Seconds of a stage on two cores, roughly. Once there is progress, only the ratios count.
fn prior_seconds(stage: &Stage, pipeline: &Pipeline) -> f64 {
    match &stage.kind {
        Kind::Crawl(_) => 30.0,
        Kind::Import(_)
        | Kind::Model(_)
        | Kind::Curate(_)
        | Kind::Balance(_)
        | Kind::Tokenizer(_) => 1.0,
        Kind::Caption(_) => 6.0,
        Kind::Filter(_) => 6.0,
        Kind::Train(train) => train.steps as f64 * step_seconds(train, pipeline),
        Kind::Evaluate(evaluate) => {
            let decoded = usize::from(evaluate.captioning.is_some())
                + usize::from(evaluate.captioner.is_some());
            2.0 + 3.0 * decoded as f64
        }
    }
}

/// Seconds of one step: relative costs of the objectives at batch 32, scaled by the batch.
fn step_seconds(train: &Train, pipeline: &Pipeline) -> f64 {
    let has = |objective| train.objectives.contains(&objective);
    let family = family(train, pipeline);
    let at_batch_32 = match family {
        Some(Family::Clip) => 0.025,
        _ => {
            let parts = [
                (Objective::Itc, 0.015),
                (Objective::Itm, 0.025),
                (Objective::Lm, 0.018),
            ];
            0.010
                + parts
                    .iter()
                    .filter(|(o, _)| has(*o))
                    .map(|(_, s)| s)
                    .sum::<f64>()
        }
    };
    at_batch_32 * train.global_batch as f64 / 32.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate() -> Estimate {
        Estimate::new(&Pipeline::from_toml(crate::demo::PIPELINE, "demo.toml").unwrap())
    }

    #[test]
    fn nothing_remains_when_everything_is_done() {
        let estimate = estimate();
        let all = estimate
            .stages
            .iter()
            .map(|(name, ..)| {
                (
                    name.clone(),
                    Seen {
                        share: 1.0,
                        seconds: 3.0,
                    },
                )
            })
            .collect();
        assert_eq!(estimate.remaining_seconds(&all), 0.0);
    }

    #[test]
    fn a_machine_of_half_the_speed_needs_twice_the_time() {
        let estimate = estimate();
        let at = |slowness: f64| {
            let seen: BTreeMap<_, _> = estimate
                .stages
                .iter()
                .filter(|(name, ..)| ["crawl", "blip_web"].contains(&name.as_str()))
                .map(|(name, _, prior)| {
                    (
                        name.clone(),
                        Seen {
                            share: 0.5,
                            seconds: 0.5 * prior * slowness,
                        },
                    )
                })
                .collect();
            estimate.remaining_seconds(&seen)
        };
        assert!((at(2.0) / at(1.0) - 2.0).abs() < 1e-9);
    }
}
