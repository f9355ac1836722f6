//! Substring matching against a query list by the rules of MetaCLIP.
//!
//! A text matches a query that it contains as whole words, case-sensitively.
//! Source of the rules: MetaCLIP (arXiv 2309.16671), `substr_matching`.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::Error;

/// An automaton over a query list.
///
/// A text becomes `" " + text + " "`, with each of `` , . ; : ? ! ` `` wrapped in
/// spaces, and tab, carriage return and line feed replaced by spaces. Nothing is
/// lowercased or collapsed. A query `q` matches if the result contains
/// `" " + q + " "`. Neighbouring matches may share a space, so the search is
/// overlapping. Queries are not transformed, so a query with punctuation inside
/// (`St. Ives`) matches no text. This is MetaCLIP's rule; keeping it makes
/// MetaCLIP's query lists give MetaCLIP's matches.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    automaton: AhoCorasick,
    /// Pattern id to query; sorted and without duplicates.
    queries: Vec<String>,
}

impl QueryMatcher {
    /// Builds the automaton. Duplicate queries are removed.
    ///
    /// # Errors
    /// [`Error::NoQueries`], [`Error::Query`], [`Error::Automaton`].
    pub fn new(queries: &[String]) -> Result<Self, Error> {
        if queries.is_empty() {
            return Err(Error::NoQueries);
        }
        for (index, query) in queries.iter().enumerate() {
            if query.is_empty() || query.trim() != query {
                let query = query.clone();
                return Err(Error::Query { index, query });
            }
        }
        let mut queries = queries.to_vec();
        queries.sort_unstable();
        queries.dedup();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(queries.iter().map(|query| pattern(query)))
            .map_err(|source| Error::Automaton {
                queries: queries.len(),
                source,
            })?;
        Ok(Self { automaton, queries })
    }

    /// Returns the numbers of the queries that `text` matches (see [`Self::query`]), ascending,
    /// each once.
    pub fn matches(&self, text: &str) -> Vec<u32> {
        let mut found: Vec<u32> = self
            .automaton
            .find_overlapping_iter(&spaced(text))
            .map(|hit| hit.pattern().as_u32())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The query with this number. Queries are numbered in sorted order.
    ///
    /// # Panics
    /// If `number` is not from [`Self::matches`].
    pub fn query(&self, number: u32) -> &str {
        &self.queries[number as usize]
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Always `false`: [`Self::new`] refuses an empty list.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }
}

/// Whether a text, as [`spaced`] returns it, matches `query`. Needs no automaton: for the few
/// queries of one row.
pub(crate) fn text_matches(spaced_text: &str, query: &str) -> bool {
    spaced_text.contains(&pattern(query))
}

fn pattern(query: &str) -> String {
    format!(" {query} ")
}

/// The form of `text` that is searched: padded, punctuation wrapped in spaces, line breaks
/// replaced by spaces.
pub(crate) fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    out.push(' ');
    for c in text.chars() {
        match c {
            ',' | '.' | ';' | ':' | '?' | '!' | '`' => {
                out.push(' ');
                out.push(c);
                out.push(' ');
            }
            '\t' | '\r' | '\n' => out.push(' '),
            _ => out.push(c),
        }
    }
    out.push(' ');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(queries: &[&str], text: &str) -> Vec<String> {
        let queries: Vec<String> = queries.iter().map(|q| q.to_string()).collect();
        let matcher = QueryMatcher::new(&queries).unwrap();
        let numbers = matcher.matches(text);
        numbers
            .into_iter()
            .map(|n| matcher.query(n).to_owned())
            .collect()
    }

    #[test]
    fn whole_words_case_kept_punctuation_spaced() {
        for (queries, text, expected) in [
            (&["red", "ball"][..], "red ball", &["ball", "red"][..]),
            // Neighbouring matches share a space; a longer match does not hide a shorter one.
            (&["a", "b"], "a b a", &["a", "b"]),
            (
                &["red ball", "ball", "ball on"],
                "red ball on",
                &["ball", "ball on", "red ball"],
            ),
            (&["ball"], "balloon", &[]),
            (&["ball"], "Ball", &[]),
            (&["ball"], "a ball.", &["ball"]),
            (&["ball"], "ball,crate", &["ball"]),
            (&["ball"], "what?ball!`x`", &["ball"]),
            (&["x"], "a `x`", &["x"]),
            (&["ball"], "(ball)", &[]),
            (&["ball"], "ball-game", &[]),
            (&["a\u{a0}b"], "a b", &[]),
            // Whitespace is not collapsed.
            (&["red ball"], "red  ball", &[]),
            (&["red ball"], "red\tball", &["red ball"]),
            (&["red ball"], "red\r\nball", &[]),
            (&["."], "end.", &["."]),
            (&["St. Ives", "Ives"], "at St. Ives", &["Ives"]),
            (&["42"], "42", &["42"]),
            (&["ball"], "", &[]),
            (&["ball", "ball"], "ball ball", &["ball"]),
            (&["été"], "un été, là", &["été"]),
        ] {
            assert_eq!(found(queries, text), expected, "{queries:?} in {text:?}");
        }
    }

    #[test]
    fn lists_that_match_nothing_are_refused() {
        assert!(matches!(QueryMatcher::new(&[]), Err(Error::NoQueries)));
        for bad in ["", " ", " a", "a "] {
            let list = ["fine".to_owned(), bad.to_owned()];
            assert!(
                matches!(QueryMatcher::new(&list), Err(Error::Query { index: 1, .. })),
                "{bad:?}"
            );
        }
    }

    proptest! {
        /// The automaton returns the same queries as a plain search for each query.
        #[test]
        fn agrees_with_plain_search(
            queries in prop::collection::vec("[ab,]( ?[ab.]){0,2}", 1..8),
            text in "[ab ,.\t]{0,30}",
        ) {
            let matcher = QueryMatcher::new(&queries).unwrap();
            let automaton: Vec<&str> =
                matcher.matches(&text).into_iter().map(|n| matcher.query(n)).collect();
            let mut plain: Vec<&str> = queries
                .iter()
                .map(String::as_str)
                .filter(|query| text_matches(&spaced(&text), query))
                .collect();
            plain.sort_unstable();
            plain.dedup();
            prop_assert_eq!(automaton, plain);
        }
    }
}
