//! Round ends and ticks of axes.

/// An axis from 0 to a round end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Its end: at least the greatest value.
    pub end: f64,
    /// Distance between two ticks.
    pub step: f64,
}

impl Range {
    /// The shortest axis of about `ticks` round steps that contains every finite value.
    pub fn holding(values: impl IntoIterator<Item = f64>, ticks: u32) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let greatest = finite.fold(0.0, f64::max);
        if greatest < 1e-9 {
            return Self {
                end: 1.0,
                step: 0.5,
            };
        }
        let rough = greatest / f64::from(ticks.max(1));
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|round| round * magnitude)
            .into_iter()
            .find(|step| *step >= rough * (1.0 - 1e-9))
            .unwrap_or(10.0 * magnitude);
        Self {
            end: (greatest / step - 1e-9).ceil() * step,
            step,
        }
    }

    /// The ticks from 0 to the end.
    pub fn ticks(&self) -> Vec<f64> {
        // Few: in `holding` the step is a fixed share of the end.
        let count = (self.end / self.step).round() as u32;
        (0..=count)
            .map(|index| f64::from(index) * self.step)
            .collect()
    }
}

/// The label of a tick: no more decimals than its step needs, thousands as `k`.
pub fn tick_label(tick: f64, step: f64) -> String {
    if step >= 1000.0 {
        return format!("{}k", tick / 1000.0);
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{tick:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_round_and_hold_their_values() {
        assert_eq!(
            Range::holding([53.2, 14.0], 5),
            Range {
                end: 60.0,
                step: 20.0
            }
        );
        assert_eq!(
            Range::holding([50.0], 5),
            Range {
                end: 50.0,
                step: 10.0
            }
        );
        assert_eq!(
            Range::holding([f64::NAN, 1399.0], 3).ticks(),
            [0.0, 500.0, 1000.0, 1500.0]
        );
        assert_eq!(Range::holding([], 4).end, 1.0);
        assert_eq!(Range::holding([f64::INFINITY, -3.0], 4).end, 1.0);
    }

    #[test]
    fn ticks_have_the_decimals_of_their_step() {
        assert_eq!(tick_label(20.0, 20.0), "20");
        assert_eq!(tick_label(0.5, 0.25), "0.5");
        assert_eq!(tick_label(0.5, 0.5), "0.5");
        assert_eq!(tick_label(2000.0, 1000.0), "2k");
    }
}
