//! Line charts: one panel of the training curves.

use std::fmt::Write;

use maud::{Markup, html};

use super::range::{Range, tick_label};

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 34.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// A line: its class and its points. Points that are not numbers interrupt it.
pub struct Line<'a> {
    /// Class by which the style sheet colours it.
    pub class: &'a str,
    /// `(x, y)`, in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// Lines over common axes that both start at 0; `label` describes the chart in words.
pub fn chart(lines: &[Line<'_>], label: &str) -> Markup {
    let points = || {
        lines
            .iter()
            .flat_map(|line| &line.points)
            .filter(|point| is_finite(point))
    };
    let x = Range::holding(points().map(|(x, _)| *x), 4);
    let y = Range::holding(points().map(|(_, y)| *y), 4);
    // The curve fills the width; only ticks are round.
    let x_end = points().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9);
    let axes = Axes {
        x_end,
        y_end: y.end,
    };
    html! {
        svg class="lines" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
            @for tick in y.ticks() {
                line class="grid" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(axes.y(tick))) y2=(px(axes.y(tick))) {}
                text class="tick end" x=(LEFT - 6.0) y=(px(axes.y(tick) + 3.5)) { (tick_label(tick, y.step)) }
            }
            @for tick in x.ticks().into_iter().filter(|tick| *tick <= x_end) {
                text class="tick middle" x=(px(axes.x(tick))) y=(HEIGHT - 6.0) { (tick_label(tick, x.step)) }
            }
            @for line in lines {
                (drawn(line, &axes))
            }
        }
    }
}

struct Axes {
    x_end: f64,
    y_end: f64,
}

impl Axes {
    fn x(&self, x: f64) -> f64 {
        LEFT + (x / self.x_end).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Values below 0 are drawn on the axis.
    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y / self.y_end).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// One path. A single point between gaps is a dot, because a path would not show it.
fn drawn(line: &Line<'_>, axes: &Axes) -> Markup {
    let stretches: Vec<&[(f64, f64)]> = line
        .points
        .split(|point| !is_finite(point))
        .filter(|stretch| !stretch.is_empty())
        .collect();
    let mut path = String::new();
    for stretch in stretches.iter().filter(|stretch| stretch.len() > 1) {
        for (index, (x, y)) in stretch.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            // Writing to a String cannot fail.
            let _ = write!(path, "{command}{} {}", px(axes.x(*x)), px(axes.y(*y)));
        }
    }
    html! {
        @if !path.is_empty() {
            path class={ "line " (line.class) } d=(path) {}
        }
        @for (x, y) in stretches.iter().filter(|stretch| stretch.len() == 1).map(|stretch| stretch[0]) {
            circle class={ "dot " (line.class) } cx=(px(axes.x(x))) cy=(px(axes.y(y))) r="2" {}
        }
    }
}

fn is_finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

/// A coordinate, one decimal.
pub fn px(coordinate: f64) -> String {
    format!("{coordinate:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(points: Vec<(f64, f64)>) -> String {
        chart(&[Line { class: "c", points }], "loss").into_string()
    }

    #[test]
    fn points_that_are_no_numbers_break_the_line_and_nothing_else() {
        let svg = svg(vec![
            (0.0, 4.0),
            (1.0, 3.0),
            (2.0, f64::NAN),
            (3.0, 2.0),
            (4.0, f64::INFINITY),
        ]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 1);
        assert_eq!(svg.matches("<circle").count(), 1, "a lone point is a dot");
    }

    #[test]
    fn no_points_give_axes_alone() {
        let svg = svg(Vec::new());
        assert!(!svg.contains("NaN") && !svg.contains("<path"), "{svg}");
    }

    #[test]
    fn the_greatest_value_lies_within_the_panel() {
        let svg = svg(vec![(0.0, 0.0), (10.0, 7.3)]);
        let path = svg
            .split(" d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(path, "M34.0 166.0L332.0 23.7");
    }
}
