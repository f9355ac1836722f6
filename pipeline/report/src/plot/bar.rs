//! Horizontal bars.

use maud::{Markup, html};

/// A bar of `value` on a track that ends at `end`, coloured by `class`.
///
/// Values are clamped to the track. A value that is not a number is an empty track.
pub fn bar(value: f64, end: f64, class: &str) -> Markup {
    html! {
        span class="track" aria-hidden="true" {
            span class={ "bar " (class) } style={ "width:" (width(value, end)) "%" } {}
        }
    }
}

/// A labelled row of a bar list: label, bar, number.
pub fn row(label: &Markup, value: f64, end: f64, class: &str, number: &str) -> Markup {
    html! {
        div class="bar-row" {
            span class="bar-label" { (label) }
            (bar(value, end, class))
            span class="bar-number" { (number) }
        }
    }
}

/// Width in percent of the track, two decimals.
fn width(value: f64, end: f64) -> String {
    let share = value / end;
    let percent = if share.is_finite() {
        100.0 * share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    format!("{percent:.2}")
}

#[cfg(test)]
mod tests {
    use super::width;

    #[test]
    fn bars_stay_on_their_track() {
        assert_eq!(width(5.0, 10.0), "50.00");
        assert_eq!(width(-5.0, 10.0), "0.00");
        assert_eq!(width(50.0, 10.0), "100.00");
        assert_eq!(width(0.0, 0.0), "0.00");
        assert_eq!(width(f64::NAN, 10.0), "0.00");
    }
}
