//! The blind test: the same figures with the pictures permuted.

use capstan_plan::results::ModelFigures;
use maud::{Markup, html};

use super::{missing, section};
use crate::arm::{family_title, groups};
use crate::number;
use crate::plot::bar::bar;
use crate::summary::Summary;

/// Title of a figure, and the function that reads it.
type Figure = (&'static str, fn(&ModelFigures) -> Option<f64>);

const FIGURES: &[Figure] = &[
    ("Mean R@1", |m| m.retrieval.map(|r| r.mean_at_1())),
    ("Mean R@5", |m| {
        m.retrieval.map(|r| (r.tr_at_5 + r.ir_at_5) / 2.0)
    }),
    ("Zero-shot", |m| m.zero_shot.map(|z| z.accuracy)),
    ("CIDEr", |m| m.captioning.map(|c| c.cider)),
    ("CIDEr fine-tuned", |m| {
        m.captioning_fine_tuned.map(|c| c.cider)
    }),
];

/// The section.
pub fn blind(summary: &Summary) -> Markup {
    let lead = html! {
        "The evaluation pictures are permuted so that none keeps its place. What a model still "
        "scores then, it owes to the texts alone; a system that cheats shows it here."
    };
    let body = html! {
        @if summary.blind.is_empty() {
            (missing("No model was tested blind."))
        } @else {
            div class="panels" {
                @for (title, name, blind) in panels(summary) {
                    (panel(&title, summary.model(name), blind))
                }
            }
        }
    };
    section("blind", "The blind test", &lead, &body)
}

/// Title, name and blind figures of each model, in the order of the comparison. A model without
/// sighted figures comes last, under its name.
fn panels(summary: &Summary) -> Vec<(Markup, &str, &ModelFigures)> {
    let groups = groups(summary);
    let measured = groups.iter().flat_map(|group| {
        let title = group.title();
        group.models.iter().map(move |model| (title, model))
    });
    let known = measured.filter_map(|(title, model)| {
        let heading = html! { strong { (title) } " " (model.label().to_lowercase()) };
        Some((heading, model.name, summary.blind.get(model.name)?))
    });
    let unknown = summary
        .blind
        .iter()
        .filter(|(name, _)| summary.model(name).is_none());
    let unknown = unknown.map(|(name, blind)| {
        let heading = html! { strong { (family_title(summary.arm(name).family)) } " " (name) };
        (heading, name.as_str(), blind)
    });
    known.chain(unknown).collect()
}

fn panel(title: &Markup, sighted: Option<&ModelFigures>, blind: &ModelFigures) -> Markup {
    html! {
        figure class="panel" {
            figcaption { (title) }
            table class="pairs" {
                thead { tr {
                    th scope="col" { "Figure" } th {} th scope="col" { "Sighted" } th scope="col" { "Blind" }
                } }
                tbody {
                    @for (title, figure) in FIGURES {
                        @let (with, without) = (sighted.and_then(figure), figure(blind));
                        @if with.is_some() || without.is_some() {
                            (row(title, with, without))
                        }
                    }
                }
            }
        }
    }
}

/// CIDEr exceeds 100, so that a track ends at the greater figure, or at 100.
fn row(title: &str, sighted: Option<f64>, blind: Option<f64>) -> Markup {
    let end = [sighted, blind].into_iter().flatten().fold(100.0, f64::max);
    html! {
        tr {
            th scope="row" { (title) }
            td class="bars" {
                (bar(sighted.unwrap_or(f64::NAN), end, "c-boot"))
                (bar(blind.unwrap_or(f64::NAN), end, "c-drop"))
            }
            td { (number::figure(sighted)) }
            td { strong { (number::figure(blind)) } }
        }
    }
}
