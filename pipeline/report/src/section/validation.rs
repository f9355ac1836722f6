//! Validation curves: one panel per training that was measured, one line per figure.

use capstan_plan::results::{ValidationCurve, ValidationPoint};
use maud::{Markup, html};

use crate::plot::line::{Line, chart};
use crate::run_report::RunReport;

/// The panels below the training curves; nothing if no training was measured.
pub fn panels(report: &RunReport) -> Markup {
    let trainings = report.trainings.iter();
    let curves: Vec<(&str, &ValidationCurve)> = trainings
        .filter_map(|(name, training)| Some((name.as_str(), training.validation.as_ref()?)))
        .collect();
    if curves.is_empty() {
        return html! {};
    }
    html! {
        h3 { "Validation" }
        p class="lead" {
            "Figures on pictures that are not trained on, measured between steps. The best step is that "
            "with the greatest value of the metric."
        }
        ul class="legend" {
            li { span class="key l-metric" {} "metric" }
            li { span class="key l-other" {} "figures measured with it" }
            li { span class="key l-best" {} "best step" }
        }
        div class="panels three" {
            @for (name, curve) in &curves { (panel(name, curve)) }
        }
    }
}

fn panel(name: &str, curve: &ValidationCurve) -> Markup {
    let metric = curve.metric.as_str();
    let figures = curve.metric.figures().iter();
    // The metric is drawn last, above the others.
    let mut lines: Vec<Line<'_>> = figures.rev().map(|figure| line(curve, figure)).collect();
    if let Some(best) = curve.best() {
        lines.push(Line {
            class: "l-best",
            points: curve
                .value(best)
                .map(|value| (best.step as f64, value))
                .into_iter()
                .collect(),
        });
    }
    html! {
        figure class="panel curve validation" {
            figcaption {
                strong { (name.replace('_', " ")) }
                span class="total" { (metric) }
            }
            (chart(&lines, &format!("{metric} of {name} on the validation set by step")))
            @if let Some(summary) = curve.summary() { p class="note" { (summary) } }
        }
    }
}

fn line(curve: &ValidationCurve, figure: &str) -> Line<'static> {
    let point = |point: &ValidationPoint| Some((point.step as f64, *point.figures.get(figure)?));
    Line {
        class: match figure == curve.metric.as_str() {
            true => "l-metric",
            false => "l-other",
        },
        points: curve.points.iter().filter_map(point).collect(),
    }
}
