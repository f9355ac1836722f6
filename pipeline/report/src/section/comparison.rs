//! The comparison: every arm, every figure.

use maud::{Markup, html};

use super::{missing, section};
use crate::arm::{Group, Measured, Texts, groups, mean_at_1};
use crate::number;
use crate::summary::{COLUMNS, Column, Summary};

/// The section.
pub fn comparison(summary: &Summary) -> Markup {
    let families = groups(summary);
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

fn table(summary: &Summary, families: &[Group<'_>]) -> Markup {
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
                    @for model in &family.models { (row(summary, family, model, &columns)) }
                }
            }
        }
    }
}

fn row(summary: &Summary, family: &Group<'_>, model: &Measured<'_>, columns: &[&Column]) -> Markup {
    let figures = summary.model(model.name);
    let gain = mean_at_1(summary, model.name)
        .zip(family.mean_at_1(summary, Texts::Web))
        .filter(|_| model.texts != Texts::Web)
        .map(|(this, web)| this - web);
    html! {
        tr class=[(model.texts == Texts::Bootstrapped).then_some("leading")] {
            th scope="row" title=(model.name) {
                span class={ "key " (model.texts.class()) } {} (model.label())
            }
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

/// The greatest figure of a family; `None` if the family has fewer than two figures.
fn best(
    summary: &Summary,
    family: &Group<'_>,
    figure: fn(&capstan_plan::results::ModelFigures) -> Option<f64>,
) -> Option<f64> {
    let values: Vec<f64> = family
        .models
        .iter()
        .filter_map(|model| figure(summary.model(model.name)?))
        .filter(|value| value.is_finite())
        .collect();
    (values.len() > 1).then(|| values.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// The texts that each arm of the run was trained on, each arm once.
fn data_of_arms(families: &[Group<'_>]) -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for model in families.iter().flat_map(|family| &family.models) {
        let entry = (model.texts.title(), model.texts.description());
        if !entry.1.is_empty() && !seen.contains(&entry) {
            seen.push(entry);
        }
    }
    seen
}
