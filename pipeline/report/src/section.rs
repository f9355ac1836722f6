//! The sections of the page, one module each.

pub mod blind;
pub mod comparison;
pub mod curves;
pub mod filter;
pub mod flow;
pub mod headline;
pub mod limits;
pub mod rejects;
pub mod samples;
pub mod tiles;
pub mod times;
pub mod validation;

use maud::{Markup, html};

/// A section with its heading and one sentence that describes it.
pub fn section(id: &str, heading: &str, lead: &Markup, body: &Markup) -> Markup {
    html! {
        section id=(id) {
            h2 { (heading) }
            p class="lead" { (lead) }
            (body)
        }
    }
}

/// The text in place of figures that the run does not have.
pub fn missing(text: &str) -> Markup {
    html! { p class="missing" { (text) } }
}
