//! The comparison: every arm, every figure.

use maud::{Markup, html};

use super::{missing, section};
use crate::arm::{Arm, Family, families, mean_at_1};
use crate::number;
use crate::summary::{COLUMNS, Column, Summary};

/// The section.
pub fn comparison(summary: &Summary) -> Markup {
    let families = families(summary);
    let lead = html! {
        "The best of each family is marked. Recall and accuracy are in percent, a tie is a miss, "
        "CIDEr-D is times 100."
    };
    let body = html! {
        @if families.is_empty() {
            (missing("No model was measured."))
        } @else {
            div class="scroll" { (table(summary, &families)) }
            dl class="arms" {
                @for (title, data) in data_of_arms(&families) {
                    div { dt { (title) } dd { (data) } }
                }
            }
        }
    };
    section("comparison", "The comparison", &lead, &body)
}

/// The columns that some model of the run has.
fn columns(summary: &Summary) -> Vec<&'static Column> {
    COLUMNS
        .iter()
        .filter(|(_, figure)| summary.models.values().any(|model| figure(model).is_some()))
        .collect()
}

fn table(summary: &Summary, families: &[Family<'_>]) -> Markup {
    let columns = columns(summary);
    html! {
        table class="comparison" {
            thead {
                tr {
                    th scope="col" { "Model" }
                    @for (title, _) in &columns { th scope="col" { (title) } }
                    th scope="col" { "R@1 over web" }
                }
            }
            @for family in families {
                tbody {
                    tr class="family" { th colspan=(columns.len() + 2) scope="rowgroup" { (family.title()) } }
                    @for arm in &family.arms { (row(summary, family, arm, &columns)) }
                }
            }
        }
    }
}

fn row(summary: &Summary, family: &Family<'_>, arm: &Arm<'_>, columns: &[&Column]) -> Markup {
    let figures = summary.model(arm.name);
    let gain = mean_at_1(summary, arm.name)
        .zip(family.mean_at_1(summary, "web"))
        .filter(|_| arm.kind != "web")
        .map(|(this, web)| this - web);
    html! {
        tr class=[(arm.kind == "bootstrapped").then_some("leading")] {
            th scope="row" title=(arm.name) { span class={ "key " (arm.class()) } {} (arm.title()) }
            @for (_, figure) in columns {
                @let value = figures.and_then(figure);
                @let is_best = value.is_some() && value == best(summary, family, *figure);
                td class=[is_best.then_some("best")] { (number::figure(value)) }
            }
            td class={ "gain" @if gain.is_some_and(|gain| gain < 0.0) { " down" } } {
                (gain.map_or_else(|| number::NONE.to_owned(), number::points))
            }
        }
    }
}

/// The greatest figure among a family's arms; none where there is nothing to compare.
fn best(
    summary: &Summary,
    family: &Family<'_>,
    figure: fn(&capstan_plan::results::ModelFigures) -> Option<f64>,
) -> Option<f64> {
    let values: Vec<f64> = family
        .arms
        .iter()
        .filter_map(|arm| figure(summary.model(arm.name)?))
        .filter(|value| value.is_finite())
        .collect();
    (values.len() > 1).then(|| values.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// What each arm of the run was trained on, once.
fn data_of_arms<'a>(families: &[Family<'a>]) -> Vec<(&'a str, &'static str)> {
    let mut seen = Vec::new();
    for arm in families.iter().flat_map(|family| &family.arms) {
        let entry = (arm.title(), arm.data());
        if !entry.1.is_empty() && !seen.contains(&entry) {
            seen.push(entry);
        }
    }
    seen
}
