//! The blind test: the same figures with the pictures permuted.

use capstan_plan::results::ModelFigures;
use maud::{Markup, html};

use super::{missing, section};
use crate::arm::Arm;
use crate::number;
use crate::plot::bar::bar;
use crate::summary::Summary;

/// What is shown, and how it is read.
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
                @for (name, blind) in ordered(summary) { (panel(name, summary.model(name), blind)) }
            }
        }
    };
    section("blind", "The blind test", &lead, &body)
}

/// CLIP before BLIP, as everywhere on the page.
fn ordered(summary: &Summary) -> Vec<(&String, &ModelFigures)> {
    let mut blind: Vec<_> = summary.blind.iter().collect();
    blind.sort_by_key(|(name, _)| !name.starts_with("clip"));
    blind
}

fn panel(name: &str, sighted: Option<&ModelFigures>, blind: &ModelFigures) -> Markup {
    let arm = Arm::of(name);
    html! {
        figure class="panel" {
            figcaption { strong { (arm.family.to_uppercase()) } " " (arm.title().to_lowercase()) }
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

/// CIDEr goes beyond 100: a track ends at the greater of both, or at 100.
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
