//! Opt-out signals: `X-Robots-Tag` headers and meta robots tags.
//!
//! **Policy, version 1** ([`crate::POLICY_VERSION`]). Of the directives that apply to all
//! agents or to ours:
//! - `noai`, `noimageai`, `noindex`, `noimageindex` and `none` are refusals. On a page
//!   (header or meta tag) they exclude its pictures and their texts; on the response of a
//!   picture they exclude that picture. An excluded picture is a reject `opt_out`; the
//!   crawl does not request it again.
//! - `nofollow` and `none` on a page: its links are not followed.
//! - Everything else (`noarchive`, `unavailable_after: ...`, and the headers
//!   `tdm-reservation` and `content-usage`) is stored with the row as a signal
//!   `name=value`, and excludes nothing.
//!
//! Lists of directives and user-agent prefixes follow Google's documentation: a prefix
//! applies to the directives after it in the same header, up to the next prefix.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;

/// Directives that exclude pictures.
const REFUSALS: [&str; 5] = ["noai", "noimageai", "noindex", "noimageindex", "none"];
/// Directives whose value follows a colon; their name is not a user agent.
const VALUED: [&str; 4] = [
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
];
/// Headers of other schemes; they are stored and have no effect.
const OTHER_HEADERS: [&str; 2] = ["tdm-reservation", "content-usage"];
/// Greatest number of signals stored per page or picture.
const MAX_SIGNALS: usize = 64;
/// Characters stored per signal.
const MAX_SIGNAL_CHARS: usize = 200;

/// Opt-out signals as `name=value`, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Signals {
    all: BTreeSet<String>,
    refusal: Option<String>,
    is_nofollow: bool,
}

impl Signals {
    /// Reads the signals of response headers for `user_agent`.
    pub(crate) fn from_headers(headers: &HeaderMap, user_agent: &str) -> Self {
        let mut signals = Self::default();
        for value in headers.get_all("x-robots-tag") {
            let value = String::from_utf8_lossy(value.as_bytes());
            signals.add_list("x-robots-tag", &value, user_agent);
        }
        for name in OTHER_HEADERS {
            for value in headers.get_all(name) {
                signals.keep(name, &String::from_utf8_lossy(value.as_bytes()));
            }
        }
        signals
    }

    /// Adds a meta tag whose name is `robots` or our user agent.
    pub(crate) fn add_meta(&mut self, name: &str, content: &str, user_agent: &str) {
        let name = name.trim();
        if name.eq_ignore_ascii_case("robots") || name.eq_ignore_ascii_case(user_agent) {
            self.add_list("meta", content, user_agent);
        } else if name.eq_ignore_ascii_case("tdm-reservation") {
            self.keep("meta-tdm-reservation", content);
        }
    }

    /// The signal that excludes pictures, if there is one.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether links may not be followed.
    pub(crate) fn is_nofollow(&self) -> bool {
        self.is_nofollow
    }

    /// Every signal, sorted.
    pub(crate) fn all(&self) -> Vec<String> {
        self.all.iter().cloned().collect()
    }

    fn add_list(&mut self, source: &str, list: &str, user_agent: &str) {
        let mut for_us = true;
        for item in list.split([',', ';']) {
            let mut item = item.trim();
            if let Some((name, rest)) = item.split_once(':') {
                let (name, rest) = (name.trim(), rest.trim());
                if is_agent(name) {
                    let named = name.split('/').next().unwrap_or_default();
                    for_us = name == "*" || named.eq_ignore_ascii_case(user_agent);
                    item = rest;
                }
            }
            if for_us && !item.is_empty() {
                self.add_item(source, &item.to_lowercase());
            }
        }
    }

    fn add_item(&mut self, source: &str, item: &str) {
        // Some sites separate directives by spaces instead of commas.
        for word in item.split_whitespace() {
            if REFUSALS.contains(&word) {
                let signal = format!("{source}={word}");
                self.refusal.get_or_insert(signal);
            }
            self.is_nofollow |= matches!(word, "nofollow" | "none");
        }
        self.keep(source, item);
    }

    fn keep(&mut self, source: &str, value: &str) {
        if self.all.len() < MAX_SIGNALS {
            let signal = format!("{source}={}", value.trim());
            self.all
                .insert(signal.chars().take(MAX_SIGNAL_CHARS).collect());
        }
    }
}

/// Whether the text before a colon is a user agent: one word, neither a directive nor part of a
/// date or time.
fn is_agent(name: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    name == "*"
        || (name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(is_name)
            && !VALUED
                .iter()
                .any(|valued| valued.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> Signals {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-robots-tag", HeaderValue::from_str(value).unwrap());
        }
        Signals::from_headers(&headers, "mybot")
    }

    #[test]
    fn refusals_are_found_in_every_form() {
        for (values, refused) in [
            (&["noai"][..], true),
            (&["NoAI"], true),
            (&["noimageai"], true),
            (&["noindex"], true),
            (&["noimageindex"], true),
            (&["none"], true),
            (&["noarchive", "noai"], true),
            (&["noarchive, noai"], true),
            (&["noarchive,noai"], true),
            (&["noarchive; noai"], true),
            (&["noarchive noai"], true),
            (&["mybot: noai"], true),
            (&["mybot : noai"], true),
            (&["MyBot: noai"], true),
            (&["mybot/1.0: noai"], true),
            (&["*: noai"], true),
            (&["otherbot: nofollow, mybot: noai"], true),
            (&["nofollow, mybot: noarchive, noai"], true),
            (&["noai, unavailable_after: 25 Jun 2027 15:00:00 PST"], true),
            (&["unavailable_after: 25 Jun 2027 15:00:00 PST, noai"], true),
            (
                &["unavailable_after: Friday, 25-Jun-27 15:00:00 UTC, noimageai"],
                true,
            ),
            (&["max-snippet: 20, noai"], true),
            (&["max-image-preview:large, noindex"], true),
            (&["otherbot: noai"], false),
            (&["otherbot: noarchive, noai"], false),
            (&["mybot: noarchive, otherbot: noai"], false),
            (&["noarchive"], false),
            (&["all"], false),
            (&["nofollow"], false),
            (&["index, follow"], false),
            (&["nonexistent, noaidea"], false),
            (&["unavailable_after: 25 Jun 2027 15:00:00 PST"], false),
            (&[""], false),
            (&[",,;:"], false),
        ] {
            assert_eq!(of(values).refusal().is_some(), refused, "{values:?}");
        }
    }

    #[test]
    fn nofollow_and_none_exclude_links() {
        for (value, nofollow) in [
            ("nofollow", true),
            ("none", true),
            ("noindex, NOFOLLOW", true),
            ("noai", false),
            ("otherbot: nofollow", false),
        ] {
            assert_eq!(of(&[value]).is_nofollow(), nofollow, "{value}");
        }
    }

    #[test]
    fn a_meta_tag_applies_by_its_name() {
        for (name, refused) in [
            ("robots", true),
            ("ROBOTS", true),
            ("mybot", true),
            ("otherbot", false),
            ("description", false),
        ] {
            let mut signals = Signals::default();
            signals.add_meta(name, "noai, follow", "mybot");
            assert_eq!(signals.refusal().is_some(), refused, "{name}");
        }
    }

    #[test]
    fn other_signals_are_stored() {
        let signals = of(&[
            "noarchive, unavailable_after: 25 Jun 2027 15:00:00 PST",
            "noarchive",
        ]);
        assert_eq!(
            signals.all(),
            [
                "x-robots-tag=noarchive",
                "x-robots-tag=unavailable_after: 25 jun 2027 15:00:00 pst"
            ]
        );
        let many: Vec<String> = (0..1000).map(|n| format!("x{n}")).collect();
        assert_eq!(of(&[&many.join(",")]).all().len(), MAX_SIGNALS);
    }
}
