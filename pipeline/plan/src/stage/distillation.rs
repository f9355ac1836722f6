//! Momentum distillation of a training's contrast.

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// Momentum encoders, queues and soft labels of `itc` (Li et al. 2021, "Align before fuse", section
/// 3), as BLIP trains with them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distillation {
    /// Share of its old value that each weight of the momentum encoders keeps in a step.
    pub rate: f64,
    /// Features of past samples that `itc` contrasts with beside those of the batch, the newest ones of
    /// all ranks. 0 for none.
    pub queue: usize,
    /// Share of the labels of `itc` that comes from the similarities of the momentum encoders.
    pub alpha: f64,
    /// Steps over which that share rises from 0; two passes over the samples where it is left out, as
    /// BLIP's pre-training. 0 for the whole share from the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_steps: Option<u64>,
}

impl Default for Distillation {
    /// The values of BLIP's pre-training.
    fn default() -> Self {
        Self {
            rate: 0.995,
            queue: 57_600,
            alpha: 0.4,
            ramp_steps: None,
        }
    }
}

impl Distillation {
    /// Steps over which the share of soft labels rises.
    ///
    /// - `samples`: of the data.
    pub fn ramp_steps(&self, samples: usize, global_batch: usize) -> u64 {
        let pass = samples.div_ceil(global_batch.max(1)) as u64;
        self.ramp_steps.unwrap_or(2 * pass)
    }

    /// States the rules of the settings.
    pub(super) fn check(&self, check: &mut Check) {
        check.number("rate", self.rate, 0.0..1.0);
        check.integer("queue", self.queue, 0..=1_048_576);
        check.number("alpha", self.alpha, 0.0..=1.0);
        if let Some(steps) = self.ramp_steps {
            check.integer("ramp_steps", steps, 0..=1_000_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_over_two_passes_unless_it_is_said() {
        let left_out = Distillation::default();
        assert_eq!(left_out.ramp_steps(100, 32), 8);
        let ramp_steps = Some(5);
        let said = Distillation {
            ramp_steps,
            ..left_out
        };
        assert_eq!(said.ramp_steps(100, 32), 5);
    }
}
