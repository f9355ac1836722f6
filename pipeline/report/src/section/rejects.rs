//! Rejected and dropped pictures by reason, and the kinds of the curated web texts.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{missing, section};
use crate::number;
use crate::plot::bar::row;
use crate::summary::Summary;

/// Maximum number of bars of a list. The last bar sums up the rest.
const MOST_BARS: usize = 20;

/// The section.
pub fn rejects(summary: &Summary) -> Markup {
    let pairs = &summary.pairs;
    let lead = html! {
        "A refused picture has a code, a dropped one a rule, a text a kind where the web is known to us."
    };
    let body = html! {
        div class="panels three" {
            (list("Refused, by code", &pairs.rejected, "c-drop", reject_hint, "No picture was refused."))
            (list("Dropped by curation, by rule", &pairs.dropped, "c-drop", |_| "", "Curation dropped nothing."))
            (list("Curated web texts, by kind", &pairs.curated_texts_by_kind, "c-web", kind_hint, "The kinds of the web texts are not known."))
        }
    };
    section(
        "rejects",
        "Refused, dropped, and what remained",
        &lead,
        &body,
    )
}

/// A list of bars in descending order.
fn list(
    title: &str,
    counts: &BTreeMap<String, u64>,
    class: &str,
    hint: fn(&str) -> &'static str,
    none: &str,
) -> Markup {
    let total: u64 = counts.values().sum();
    let mut rows: Vec<(&str, u64)> = counts
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    rows.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let rest: u64 = rows.iter().skip(MOST_BARS).map(|(_, count)| count).sum();
    rows.truncate(MOST_BARS);
    if rest > 0 {
        rows.push(("all others", rest));
    }
    let greatest = rows
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or_default();
    html! {
        figure class="panel" {
            figcaption { strong { (title) } @if total > 0 { span class="total" { (number::count(total)) } } }
            @if rows.is_empty() { (missing(none)) }
            @for (name, count) in rows {
                @let label = html! { span title=(hint(name)) { (name.replace('_', " ")) } };
                @let share = number::percent(count, total).map(|share| format!("{share:.0} %")).unwrap_or_default();
                (row(&label, count as f64, greatest as f64, class, &format!("{} · {share}", number::count(count))))
            }
        }
    }
}

/// The meaning of a reject code; empty for an unknown one.
fn reject_hint(code: &str) -> &'static str {
    match code {
        "robots" => "robots.txt disallows it",
        "opt_out" => "the page or the picture opts out of AI use",
        "http_status" => "the server answered with an error",
        "redirects" => "too many redirects, or a loop",
        "address" => "an address that a crawler may not contact",
        "timeout" => "no answer in time",
        "network" => "DNS, connection or protocol failure",
        "bytes" => "more bytes than the cap",
        "not_image" => "not a supported picture format",
        "decode" => "corrupt or cut short",
        "pixels" => "the header claims too many pixels",
        "too_small" => "a side under the minimum",
        "text_bytes" => "a text over the cap",
        "url" => "the URL cannot be used",
        "record" => "an incomplete record of an import",
        _ => "",
    }
}

/// The meaning of a kind of text of the demo web; empty for an unknown one.
fn kind_hint(kind: &str) -> &'static str {
    match kind {
        "honest" => "true, and names everything",
        "vague" => "true, but names little or nothing",
        "wrong" => "honest but for a colour or kind",
        "other" => "honest, but of another picture",
        "file" => "a file name",
        "boilerplate" => "the page's furniture",
        _ => "",
    }
}
