//! Quality of the filter: precision, recall, and the share of good texts before and after.

use maud::{Markup, html};

use super::{missing, section};
use crate::number::{self, decimal};
use crate::plot::bar::row;
use crate::summary::{FilterFigures, Pairs, Summary};

/// The section.
pub fn filter(summary: &Summary) -> Markup {
    let pairs = &summary.pairs;
    let Some(filter) = &summary.filter else {
        return unjudged(pairs);
    };
    let lead = html! {
        "Measured against a judge that knows what is in each picture and that no stage ever sees. "
        em { "Good" } " texts name exactly what is there, " em { "vague" }
        " ones contradict nothing but do not name it all, all others are " em { "bad" }
        "; vague ones stand outside precision and recall."
    };
    let body = html! {
        div class="panels" {
            (panel("Web texts", filter.web, pairs.kept_web, pairs.dropped_web, "c-web"))
            (panel("Synthetic texts", filter.synthetic, pairs.kept_synthetic, pairs.dropped_synthetic, "c-synthetic"))
        }
    };
    section("filter", "What the filter is worth", &lead, &body)
}

/// The section of a run whose texts no judge knows.
fn unjudged(pairs: &Pairs) -> Markup {
    let lead = html! {
        "How many texts the filter kept. Whether it decided well is not known: no judge knows what "
        "is in these pictures."
    };
    let body = html! {
        div class="panels" {
            (share("Web texts", pairs.kept_web, pairs.dropped_web, "c-web"))
            (share("Synthetic texts", pairs.kept_synthetic, pairs.dropped_synthetic, "c-synthetic"))
        }
    };
    section("filter", "What the filter kept", &lead, &body)
}

fn share(title: &str, kept: u64, dropped: u64, class: &str) -> Markup {
    let all = kept + dropped;
    html! {
        figure class="panel" {
            figcaption {
                strong { (title) }
                span class="total" { (number::count(kept)) " kept of " (number::count(all)) }
            }
            @match number::percent(kept, all) {
                Some(share) => {
                    (row(&html! { "Kept" }, share, 100.0, class, &format!("{} %", decimal(share))))
                }
                None => (missing("None were judged.")),
            }
        }
    }
}

fn panel(title: &str, figures: FilterFigures, kept: u64, dropped: u64, class: &str) -> Markup {
    let label = |text: &str| html! { (text) };
    let percent = |figure: f64| format!("{} %", decimal(figure));
    html! {
        figure class="panel" {
            figcaption {
                strong { (title) }
                span class="total" { (number::count(kept)) " kept of " (number::count(kept + dropped)) }
            }
            @if kept + dropped == 0 {
                (missing("None were judged."))
            } @else {
                (row(&label("Precision"), figures.precision, 100.0, class, &percent(figures.precision)))
                (row(&label("Recall"), figures.recall, 100.0, class, &percent(figures.recall)))
                div class="bar-gap" {}
                (row(&label("Good among all"), figures.good_share_all, 100.0, "c-other", &percent(figures.good_share_all)))
                (row(&label("Good among kept"), figures.good_share_kept, 100.0, class, &percent(figures.good_share_kept)))
                p class="note" { (in_words(figures)) }
            }
        }
    }
}

fn in_words(figures: FilterFigures) -> String {
    let change = figures.good_share_kept - figures.good_share_all;
    format!(
        "Good texts are {} % of all and {} % of the kept ({} points); of the good ones the filter \
         throws away {} %.",
        decimal(figures.good_share_all),
        decimal(figures.good_share_kept),
        number::points(change),
        decimal(100.0 - figures.recall)
    )
}
