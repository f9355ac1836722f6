//! Metrics of a rank's steps. `runtime::metrics` holds their names and help texts.

use capstan_plan::id::StageName;
use capstan_plan::results::TrainingStep;
use capstan_runtime::metrics::{ALL_REDUCE_SECONDS, LOSS, SAMPLES, STEP_SECONDS, STEPS};
use metrics::{Counter, Histogram, counter, gauge, histogram};

/// The metrics of one stage.
pub(crate) struct Counts {
    stage: String,
    samples_per_step: u64,
    steps: Counter,
    samples: Counter,
    step_seconds: Histogram,
    all_reduce_seconds: Histogram,
}

impl Counts {
    /// - `samples_per_step`: this rank's share of a global batch.
    pub(crate) fn new(stage: &StageName, samples_per_step: u64) -> Self {
        let stage = stage.to_string();
        Self {
            samples_per_step,
            steps: counter!(STEPS, "stage" => stage.clone()),
            samples: counter!(SAMPLES, "stage" => stage.clone()),
            step_seconds: histogram!(STEP_SECONDS, "stage" => stage.clone()),
            all_reduce_seconds: histogram!(ALL_REDUCE_SECONDS, "stage" => stage.clone()),
            stage,
        }
    }

    /// Counts a finished step.
    pub(crate) fn step(&self, step: &TrainingStep) {
        self.steps.increment(1);
        self.samples.increment(self.samples_per_step);
        self.step_seconds.record(step.step_seconds);
        self.all_reduce_seconds.record(step.all_reduce_seconds);
        self.loss("loss", step.loss);
        for (part, loss) in &step.parts {
            self.loss(part, *loss);
        }
    }

    fn loss(&self, part: &str, loss: f64) {
        gauge!(LOSS, "stage" => self.stage.clone(), "part" => part.to_owned()).set(loss);
    }
}
