//! The flow of pictures and texts, from the web to the training set.

use maud::{Markup, html};

use super::{missing, section};
use crate::number;
use crate::plot::sankey::{Column, Node, Ribbon, diagram};
use crate::summary::{Pairs, Summary};

/// The section.
pub fn flow(summary: &Summary) -> Markup {
    let pairs = &summary.pairs;
    let lead =
        html! { "Every picture that was found and every text that was judged is accounted for." };
    let body = html! {
        @if pairs.found + pairs.curated_texts + pairs.synthetic + pairs.human == 0 {
            (missing("No picture was crawled and no text was judged."))
        } @else {
            div class="scroll" { (diagram(&columns(pairs), &ribbons(pairs), &in_words(pairs))) }
            p class="note" {
                "Up to “curated” heights count pictures, from then on texts: a picture may carry "
                "several web texts and gets synthetic ones besides."
            }
        }
        (sums(summary))
    };
    section("flow", "From the web to the training set", &lead, &body)
}

fn columns(pairs: &Pairs) -> Vec<Column> {
    let node = |label, count, class| Node {
        label,
        count,
        class,
    };
    let total = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
    vec![
        Column {
            head: if pairs.imported { "Source" } else { "Crawl" },
            nodes: vec![node("pictures found", pairs.found, "n-main")],
        },
        Column {
            head: if pairs.imported { "Import" } else { "Fetch" },
            nodes: vec![
                node(
                    if pairs.imported {
                        "imported"
                    } else {
                        "fetched"
                    },
                    pairs.fetched,
                    "n-main",
                ),
                node("rejected", total(&pairs.rejected), "n-drop"),
            ],
        },
        Column {
            head: "Curate",
            nodes: vec![
                node("pictures curated", pairs.curated, "n-main"),
                node("dropped", total(&pairs.dropped), "n-drop"),
            ],
        },
        Column {
            head: "Texts",
            nodes: vec![
                node("web texts", pairs.curated_texts, "n-web"),
                node("synthetic texts", pairs.synthetic, "n-synthetic"),
            ],
        },
        Column {
            head: "Filter",
            nodes: vec![
                node("web, dropped", pairs.dropped_web, "n-drop"),
                node("web, kept", pairs.kept_web, "n-web"),
                node("human", pairs.human, "n-human"),
                node("synthetic, kept", pairs.kept_synthetic, "n-synthetic"),
                node("synthetic, dropped", pairs.dropped_synthetic, "n-drop"),
                node("web, not filtered", pairs.unfiltered_web, "n-web"),
                node(
                    "synthetic, not filtered",
                    pairs.unfiltered_synthetic,
                    "n-synthetic",
                ),
            ],
        },
        Column {
            head: "Train",
            nodes: vec![node("texts to train on", to_train_on(pairs), "n-boot")],
        },
    ]
}

/// Texts of the bootstrapped training set; without a filter, of the whole dataset.
fn to_train_on(pairs: &Pairs) -> u64 {
    let unfiltered = pairs.unfiltered_web + pairs.unfiltered_synthetic;
    pairs.kept_web + pairs.kept_synthetic + unfiltered + pairs.human
}

fn ribbons(pairs: &Pairs) -> Vec<Ribbon> {
    let total = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
    let same = |from, to, count, class| Ribbon {
        from,
        to,
        counts: (count, count),
        class,
    };
    // Pictures become texts here: the edge of `curated` is split in proportion to the texts.
    let texts = (pairs.curated_texts + pairs.synthetic).max(1);
    let carrying = |count: u64| (pairs.curated as f64 * count as f64 / texts as f64).round() as u64;
    let carry = |to, count, class| Ribbon {
        from: (2, 0),
        to,
        counts: (carrying(count), count),
        class,
    };
    vec![
        same((0, 0), (1, 0), pairs.fetched, "r-main"),
        same((0, 0), (1, 1), total(&pairs.rejected), "r-drop"),
        same((1, 0), (2, 0), pairs.curated, "r-main"),
        same((1, 0), (2, 1), total(&pairs.dropped), "r-drop"),
        carry((3, 0), pairs.curated_texts, "r-web"),
        carry((3, 1), pairs.synthetic, "r-synthetic"),
        same((3, 0), (4, 0), pairs.dropped_web, "r-drop"),
        same((3, 0), (4, 1), pairs.kept_web, "r-web"),
        same((3, 1), (4, 3), pairs.kept_synthetic, "r-synthetic"),
        same((3, 1), (4, 4), pairs.dropped_synthetic, "r-drop"),
        same((4, 1), (5, 0), pairs.kept_web, "r-web"),
        same((4, 2), (5, 0), pairs.human, "r-human"),
        same((4, 3), (5, 0), pairs.kept_synthetic, "r-synthetic"),
        same((3, 0), (4, 5), pairs.unfiltered_web, "r-web"),
        same((3, 1), (4, 6), pairs.unfiltered_synthetic, "r-synthetic"),
        same((4, 5), (5, 0), pairs.unfiltered_web, "r-web"),
        same((4, 6), (5, 0), pairs.unfiltered_synthetic, "r-synthetic"),
    ]
}

/// The diagram in words, for screen readers.
fn in_words(pairs: &Pairs) -> String {
    let n = number::count;
    format!(
        "{} pictures found, {} fetched, {} curated; {} web texts, {} kept; {} synthetic texts, {} kept; \
         {} human texts; {} texts to train on",
        n(pairs.found),
        n(pairs.fetched),
        n(pairs.curated),
        n(pairs.curated_texts),
        n(pairs.kept_web),
        n(pairs.synthetic),
        n(pairs.kept_synthetic),
        n(pairs.human),
        n(to_train_on(pairs))
    )
}

/// Whether every sum closes; the first that does not is named.
fn sums(summary: &Summary) -> Markup {
    match summary.check() {
        Ok(()) => html! {
            p class="sums ok" {
                "✓ Every sum closes: found = fetched + rejected, fetched = curated + dropped, "
                "texts = kept + dropped."
            }
        },
        Err(unbalanced) => html! { p class="sums broken" { "✕ " (unbalanced) "." } },
    }
}
