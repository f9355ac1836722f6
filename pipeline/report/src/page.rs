//! The page: its head, its sections in their order, its foot.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::run_report::RunReport;
use crate::section::{
    blind, comparison, curves, filter, flow, headline, limits, rejects, samples, tiles, times,
};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The whole document.
pub fn render(report: &RunReport) -> Markup {
    let summary = &report.summary;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.title) " · seed " (summary.seed) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (headline::headline(report))
                    (tiles::tiles(summary))
                    (contents())
                    (flow::flow(summary))
                    (samples::samples(report))
                    (filter::filter(summary))
                    (rejects::rejects(summary))
                    (comparison::comparison(summary))
                    (blind::blind(summary))
                    (curves::curves(report))
                    (times::times(summary))
                    (limits::limits(summary.filter.is_some()))
                }
                (foot(report))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// The content security policy: the page loads nothing and runs only its own script, whatever a
/// web text contains.
fn policy() -> String {
    let script = STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    )
}

fn contents() -> Markup {
    let sections = [
        ("flow", "Flow"),
        ("samples", "Samples"),
        ("filter", "Filter"),
        ("rejects", "Rejects"),
        ("comparison", "Comparison"),
        ("blind", "Blind test"),
        ("curves", "Training"),
        ("times", "Times"),
        ("limits", "Limits"),
    ];
    html! {
        nav aria-label="Contents" {
            @for (id, title) in sections { a href={ "#" (id) } { (title) } }
        }
    }
}

fn foot(report: &RunReport) -> Markup {
    html! {
        footer {
            @if let Some(command) = &report.command { p { "Made by " code { (command) } } }
            p {
                @if report.made_with.is_empty() { "Seed " } @else { (report.made_with) " · seed " }
                (report.summary.seed)
                @if let Some(started) = &report.started { " · started " (started) }
                " · the same figures stand in " code { "summary.json" }
            }
        }
    }
}
