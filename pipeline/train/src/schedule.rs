//! The learning rate of each step: linear warm-up, then a cosine down to a floor.

use std::f64::consts::PI;

/// Steps that warm up at least, however few there are.
const MIN_WARMUP_STEPS: u64 = 10;

/// Warm-up and cosine over a fixed number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    peak: f64,
    steps: u64,
    warmup_steps: u64,
    final_rate: f64,
}

impl Schedule {
    /// - `peak`: the highest learning rate.
    /// - `warmup`: share of `steps` that warm up, but 10 at least.
    /// - `final_rate`: learning rate at the end, as a share of the peak.
    pub fn new(peak: f64, steps: u64, warmup: f64, final_rate: f64) -> Self {
        let warmup_steps = ((steps as f64 * warmup) as u64).max(MIN_WARMUP_STEPS);
        Self::with_warmup_steps(peak, steps, warmup_steps, final_rate)
    }

    /// [`Schedule::new`] with a warm-up of exactly this many steps, 0 for none.
    pub fn with_warmup_steps(peak: f64, steps: u64, warmup_steps: u64, final_rate: f64) -> Self {
        Self {
            peak,
            steps,
            warmup_steps,
            final_rate,
        }
    }

    /// The learning rate of `step`, from 0: the lower one of the rising line and the falling cosine.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let rising = (step + 1) as f64 / self.warmup_steps.max(1) as f64;
        let past = step.saturating_sub(self.warmup_steps) as f64;
        let whole = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let cosine = 0.5 * (1.0 + (PI * past / whole).cos());
        self.peak * rising.min(cosine * (1.0 - self.final_rate) + self.final_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule::new(3e-3, 1400, 0.1, 0.02);
        assert!((schedule.learning_rate(0) - 3e-3 / 140.0).abs() < 1e-12);
        assert!((schedule.learning_rate(139) - 3e-3).abs() < 1e-12);
        let last = schedule.learning_rate(1399);
        assert!(last > 3e-3 * 0.02 && last < 3e-3 * 0.0201, "{last}");
        for step in 140..1399 {
            assert!(schedule.learning_rate(step + 1) <= schedule.learning_rate(step));
        }
    }

    #[test]
    fn a_warm_up_has_the_length_that_it_is_given() {
        // `cosine_lr` of open_clip: base 2e-3, 2 of 5 steps warm up.
        let schedule = Schedule::with_warmup_steps(2e-3, 5, 2, 0.0);
        for (step, rate) in [1e-3, 2e-3, 2e-3, 1.5e-3, 5e-4].into_iter().enumerate() {
            assert!((schedule.learning_rate(step as u64) - rate).abs() < 1e-12);
        }
        let none = Schedule::with_warmup_steps(1.0, 4, 0, 0.0);
        assert_eq!(none.learning_rate(0), 1.0);
    }

    #[test]
    fn fewer_steps_than_the_warmup_are_well() {
        let schedule = Schedule::new(1.0, 4, 0.1, 0.0);
        assert_eq!(schedule.learning_rate(3), 0.4);
    }
}
