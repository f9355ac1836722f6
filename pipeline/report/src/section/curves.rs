//! Training curves: one panel per training, one line per part of the loss.

use std::collections::BTreeSet;

use capstan_plan::results::Training;
use maud::{Markup, html};

use super::{missing, section, validation};
use crate::number;
use crate::plot::line::{Line, chart};
use crate::run_report::RunReport;

/// The section.
pub fn curves(report: &RunReport) -> Markup {
    let parts: BTreeSet<&str> = report
        .trainings
        .iter()
        .flat_map(|(_, training)| &training.curve)
        .flat_map(|point| point.means.keys().map(String::as_str))
        .collect();
    let lead = html! {
        "Mean loss over stretches of steps, one panel a training, each on its own axes. A model's "
        "loss is the sum of its parts; losses on different data do not compare."
    };
    let body = html! {
        @if report.trainings.is_empty() {
            (missing("No training was recorded."))
        } @else {
            ul class="legend" {
                @for part in &parts { li { span class={ "key " (class(part)) } {} (title(part)) } }
            }
            div class="panels three" {
                @for (name, training) in &report.trainings { (panel(name, training)) }
            }
            (validation::panels(report))
        }
    };
    section("curves", "Training", &lead, &body)
}

fn panel(name: &str, training: &Training) -> Markup {
    let parts: BTreeSet<&str> = training
        .curve
        .iter()
        .flat_map(|point| point.means.keys().map(String::as_str))
        .collect();
    // A single part equals the sum: one line is enough.
    let lines: Vec<Line<'_>> = parts
        .iter()
        .filter(|part| parts.len() != 2 || **part != "loss")
        .map(|part| Line {
            class: class(part),
            points: training
                .curve
                .iter()
                .filter_map(|point| Some((point.step as f64, *point.means.get(*part)?)))
                .collect(),
        })
        .collect();
    let last = training
        .curve
        .iter()
        .rev()
        .find_map(|point| point.means.get("loss"));
    html! {
        figure class="panel curve" {
            figcaption {
                strong { (name.replace('_', " ")) }
                @if let Some(last) = last.filter(|last| last.is_finite()) {
                    span class="total" { "ends at " (format!("{last:.2}")) }
                }
            }
            @if training.curve.is_empty() {
                (missing("No curve was recorded."))
            } @else {
                (chart(&lines, &format!("training loss of {name} by step")))
            }
            p class="note" { (details(training)) }
        }
    }
}

fn details(training: &Training) -> String {
    let steps = training
        .curve
        .last()
        .map(|point| format!("{} steps · ", number::count(point.step + 1)));
    format!(
        "{}{} samples · {} rank{}",
        steps.unwrap_or_default(),
        number::count(training.samples),
        training.world_size,
        if training.world_size == 1 { "" } else { "s" }
    )
}

/// Class by which the style sheet colours a part.
fn class(part: &str) -> &'static str {
    match part {
        "loss" => "l-loss",
        "itc" => "l-itc",
        "itm" => "l-itm",
        "lm" => "l-lm",
        _ => "l-other",
    }
}

fn title(part: &str) -> String {
    match part {
        "loss" => "sum".to_owned(),
        "itc" => "ITC, contrast".to_owned(),
        "itm" => "ITM, matching".to_owned(),
        "lm" => "LM, captioning".to_owned(),
        other => other.to_owned(),
    }
}
