//! The page: its sections in their order.

use maud::{DOCTYPE, Markup, html};

use crate::run_report::RunReport;

/// The whole document.
pub fn render(report: &RunReport) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" { head { meta charset="utf-8"; title { (report.title) } } body { h1 { (report.title) } } }
    }
}
