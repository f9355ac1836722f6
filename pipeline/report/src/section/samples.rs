//! Samples: pictures with their texts, scores and verdicts.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{missing, section};
use crate::number::clipped;
use crate::picture::data_uri;
use crate::plot::bar::bar;
use crate::run_report::{RunReport, SampleCard, TextLine};

/// Maximum number of cards: each contains its picture, and the page must stay small.
const MOST_CARDS: usize = 240;
/// Maximum number of texts on a card.
const MOST_TEXTS: usize = 8;
/// Maximum number of characters of a text or URL; a web text may have thousands.
const MOST_CHARS: usize = 260;

/// Tags of cards, with the labels of their buttons.
const TAGS: &[(&str, &str)] = &[
    ("kept-web", "web text kept"),
    ("dropped-web", "web text dropped"),
    ("kept-synthetic", "synthetic kept"),
    ("dropped-synthetic", "synthetic dropped"),
    ("curation", "dropped by curation"),
    ("mistaken", "filter mistaken"),
];

/// The section.
pub fn samples(report: &RunReport) -> Markup {
    let lead = html! {
        "Pictures as the models see them, with the texts of the web and of the captioner. ITC is the "
        "cosine of picture and text, ITM the probability that they match, both by the filter"
        @if report.summary.filter.is_some() {
            "; the judge’s word is shown beside and was never seen by a stage"
        }
        "."
    };
    let cards: Vec<(&SampleCard, Vec<&'static str>)> = report
        .samples
        .iter()
        .map(|card| (card, tags(card)))
        .collect();
    let body = html! {
        @if cards.is_empty() {
            (missing("No samples were taken."))
        } @else {
            (buttons(&cards))
            div class="cards" {
                @for (card, tags) in in_turns(cards).iter().take(MOST_CARDS) { (drawn(card, tags)) }
            }
            button class="more" type="button" hidden { "Show all" }
        }
    };
    section("samples", "Samples", &lead, &body)
}

/// The tags of a card, in the order of [`TAGS`].
fn tags(card: &SampleCard) -> Vec<&'static str> {
    let has = |tag: &str| match tag {
        "curation" => !card.curated,
        "mistaken" => card.texts.iter().any(is_mistaken),
        _ => card.texts.iter().any(|text| verdict_tag(text) == Some(tag)),
    };
    TAGS.iter()
        .map(|(tag, _)| *tag)
        .filter(|tag| has(tag))
        .collect()
}

fn verdict_tag(text: &TextLine) -> Option<&'static str> {
    match (text.kept?, text.origin.is_web()) {
        (true, true) => Some("kept-web"),
        (false, true) => Some("dropped-web"),
        (true, false) => Some("kept-synthetic"),
        (false, false) => Some("dropped-synthetic"),
    }
}

/// Kept though bad, or dropped though good.
fn is_mistaken(text: &TextLine) -> bool {
    matches!(
        (text.kept, text.judgement.as_deref()),
        (Some(true), Some("bad")) | (Some(false), Some("good"))
    )
}

/// Cards of different tags alternate, so that the first rows show every tag.
fn in_turns<'a>(
    cards: Vec<(&'a SampleCard, Vec<&'static str>)>,
) -> Vec<(&'a SampleCard, Vec<&'static str>)> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut keyed: Vec<_> = cards
        .into_iter()
        .map(|card| {
            let turn = taken.entry(card.1.join(" ")).or_default();
            *turn += 1;
            (*turn, card)
        })
        .collect();
    keyed.sort_by_key(|(turn, _)| *turn);
    keyed.into_iter().map(|(_, card)| card).collect()
}

fn buttons(cards: &[(&SampleCard, Vec<&'static str>)]) -> Markup {
    let count = |tag: &str| cards.iter().filter(|(_, tags)| tags.contains(&tag)).count();
    html! {
        div class="filters" role="group" aria-label="Which samples are shown" {
            button type="button" data-tag="all" aria-pressed="true" { "all " span { (cards.len()) } }
            @for (tag, title) in TAGS {
                @let count = count(tag);
                button type="button" data-tag=(tag) aria-pressed="false" disabled[count == 0] {
                    (title) " " span { (count) }
                }
            }
        }
    }
}

fn drawn(card: &SampleCard, tags: &[&str]) -> Markup {
    html! {
        article class={ "card" @if !card.curated { " refused" } } data-tags=(tags.join(" ")) {
            (picture(card))
            div class="card-texts" {
                @if !card.curated {
                    p class="curation" {
                        "✕ dropped by curation"
                        @if let Some(reason) = &card.reason { ": " (clipped(&reason.replace('_', " "), MOST_CHARS)) }
                    }
                }
                @for text in card.texts.iter().take(MOST_TEXTS) { (text_line(text)) }
                @if card.texts.is_empty() { (missing("No text.")) }
                @if card.texts.len() > MOST_TEXTS {
                    p class="note" { "and " (card.texts.len() - MOST_TEXTS) " more texts" }
                }
                p class="source" title=(clipped(&format!("{} on {}", card.image_url, card.page_url), 2 * MOST_CHARS)) {
                    (clipped(&card.page_url, 60))
                }
            }
        }
    }
}

fn picture(card: &SampleCard) -> Markup {
    html! {
        @match data_uri(&card.image) {
            Some(uri) => img src=(uri) alt=(alt(card)) loading="lazy";,
            None => div class="no-picture" { "no picture" },
        }
    }
}

/// The alternative text of the picture: its first text, marked as a claim.
fn alt(card: &SampleCard) -> String {
    card.texts.first().map_or_else(
        || "picture without a text".to_owned(),
        |text| format!("picture described as: {}", clipped(&text.text, 80)),
    )
}

fn text_line(text: &TextLine) -> Markup {
    let (class, mark) = match text.kept {
        Some(true) => ("kept", "✓ kept"),
        Some(false) => ("dropped", "✕ dropped"),
        None => ("unjudged", "not judged"),
    };
    html! {
        div class={ "text " (class) } {
            p class="words" {
                @if text.text.trim().is_empty() { em { "(empty)" } } @else { (clipped(&text.text, MOST_CHARS)) }
            }
            p class="verdict" {
                span class={ "origin " (if text.origin.is_web() { "web" } else { text.origin.as_str() }) } {
                    @if text.origin.is_web() { "web " } (text.origin.as_str())
                }
                span class="mark" title=[text.reason.as_deref()] { (mark) }
                @if let Some(judgement) = &text.judgement {
                    span class={ "judge" @if is_mistaken(text) { " mistaken" } } {
                        "judge: " (clipped(judgement, 40))
                    }
                }
            }
            @if text.itc.is_some() || text.itm.is_some() {
                p class="scores" {
                    (score("ITC", text.itc)) (score("ITM", text.itm))
                    @if let Some(reason) = &text.reason { span class="reason" { (clipped(reason, 60)) } }
                }
            } @else if let Some(reason) = &text.reason {
                p class="scores" { span class="reason" { (clipped(reason, 60)) } }
            }
        }
    }
}

/// A score as a small bar of 0 to 1; a cosine below 0 is an empty bar and its number.
fn score(name: &str, value: Option<f32>) -> Markup {
    html! {
        @if let Some(value) = value.filter(|value| value.is_finite()) {
            span class="score" {
                (name) (bar(f64::from(value), 1.0, "c-score")) (format!("{value:.2}").replace('-', "\u{2212}"))
            }
        }
    }
}
