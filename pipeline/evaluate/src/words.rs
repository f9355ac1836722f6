//! The words of a caption, for CIDEr-D, BLEU and ROUGE-L.
//!
//! The reference scorers split captions with the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1
//! (`-preserveLines -lowerCase`) and drop punctuation. This module gives the same words: contractions are
//! split (`it's` is `it 's`, `cannot` is `can not`), abbreviations keep their period (`u.s.`, `mr.`),
//! `%`, `&`, `$` and other symbols are words, and brackets are names (`-lrb-`), since the scorers
//! drop only punctuation that is written in upper case.
//!
//! Like the original, it is a lexer: at each position the rule with the longest match decides, the first of
//! equals. `fixtures/words.tsv` holds what the original gives.

use std::sync::LazyLock;

use regex::Regex;

/// What becomes of a match.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    /// It is a word.
    Keep,
    /// It is a word, or a word and the contractions at its end.
    Split,
    /// It is dropped: punctuation and what the original cannot read.
    Drop,
    /// It is two words, the first of this many characters: `can|not`.
    Two(usize),
    /// It is replaced.
    Replace(&'static str),
}

/// Punctuation that the scorers drop.
const DROPPED: [&str; 13] = [
    "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";",
];

/// Contractions at the end of a word.
const CLITICS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];

/// Replacements of single characters: brackets, currencies, fractions.
const REPLACED: [(&str, &str); 16] = [
    (r"\(", "-lrb-"),
    (r"\)", "-rrb-"),
    (r"\[", "-lsb-"),
    (r"\]", "-rsb-"),
    (r"\{", "-lcb-"),
    (r"\}", "-rcb-"),
    ("£", "#"),
    ("€", "$"),
    ("¢", "cents"),
    ("½", "1/2"),
    ("¼", "1/4"),
    ("¾", "3/4"),
    ("⅓", "1/3"),
    ("⅔", "2/3"),
    ("&amp;", "&"),
    ("&lt;", "<"),
];

/// Letters and digits of a word; `_` only inside.
const RUN: &str = r"[\p{L}\p{M}\p{N}--[²³¹½¼¾⅓⅔]]+";

/// Words that end with a period.
const ABBREVIATIONS: &str = "ca|dr|mr|mrs|ms|prof|gen|sgt|rev|capt|col|lt|sen|rep|gov|pres|hon|maj|adm|messrs|\
    st|ave|blvd|rd|mt|ft|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|thu|fri|\
    inc|co|ltd|corp|etc|jr|sr|vs|dept|est|univ|bros|assn|cos|calif|fla|mich|va|ind|ph\\.d";

/// Abbreviations before a number only: `no. 5`.
const BEFORE_NUMBERS: &str = "nos?|figs?|pp?";

static RULES: LazyLock<Vec<(Regex, Action)>> = LazyLock::new(|| {
    use Action::{Drop, Keep, Replace, Split, Two};
    let number = r"[.,]?[0-9]+(?:[.,:][0-9]+)*";
    let word = format!("{RUN}(?:_+{RUN})*");
    let dotted = r"(?:[A-Za-z]\.)+[A-Za-z]?";
    let part = format!("(?:(?:[A-Za-z]\\.)+|[0-9]+(?:[.,][0-9]+)+|[dDlLoO]['’]{RUN}|{word})");
    let clitics = r"(?:['’](?i:s|t|re|ve|ll|d|m)\b)*";
    let rules: Vec<(String, Action)> = vec![
        (r"\s+|\x{200b}".to_owned(), Drop),
        (r"https?://[^\s<>]*[^\s<>.,;:!?'\x22)\]]".to_owned(), Keep),
        (r"www\.[A-Za-z0-9.-]+[A-Za-z0-9]".to_owned(), Keep),
        (
            r"[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9](?:[^\s<>\x22().]|\.[A-Za-z0-9])*".to_owned(),
            Keep,
        ),
        (
            r"#[A-Za-z]+|@[A-Za-z_][A-Za-z0-9_]*|&#[0-9]+;".to_owned(),
            Keep,
        ),
        (r"&(?:quot|apos|nbsp);".to_owned(), Drop),
        (
            r"</?[A-Za-z]+(?:\s+[A-Za-z]+(?:=\x22[^\x22<>]*\x22)?)*\s*>".to_owned(),
            Keep,
        ),
        // cannot, gonna, gotta, lemme, gimme, wanna; 'tis, 'twas
        (
            r"(?i:cannot|gonna|gotta|lemme|gimme|wanna)\b".to_owned(),
            Two(3),
        ),
        (r"(?i:'tis|'twas)\b".to_owned(), Two(2)),
        (r"(?i:y['’](?:all|know))\b".to_owned(), Two(2)),
        (
            r"(?i:'n'|'n\b|'em\b|'cause\b|'till?\b)|['’][0-9]{2}(?:s\b|\s|$)".to_owned(),
            Keep,
        ),
        (r"(?i:n['’]t|['’](?:s|re|ve|ll|d|m))\b".to_owned(), Split),
        // U.S., e.g., a.m.; single letters; abbreviations
        (dotted.to_owned(), Split),
        (format!("(?i:{ABBREVIATIONS})\\."), Keep),
        (r"[A-Za-z]+(?:[.!?][A-Za-z]+)+".to_owned(), Split),
        (format!("[-+]?{number}"), Keep),
        (r"[0-9]+(?:[ -][0-9]+)?/[0-9]+(?:/[0-9]+)*".to_owned(), Keep),
        (format!("{part}(?:-{part})*{clitics}"), Split),
        (format!("{RUN}(?:/{RUN})+"), Split),
        (r"[A-Z]&[A-Z]\b|[A-Z]+&[A-Z]+\b".to_owned(), Keep),
        (
            r"(?i:c\+\+|[cf]#|us\$|ol'|o['’]clock|c'mon|ma'am)".to_owned(),
            Keep,
        ),
        // Smileys, whose brackets have names too.
        (r"[:;=]-?[DpP]\b".to_owned(), Keep),
        (r"\^_\^".to_owned(), Keep),
        (r":\)".to_owned(), Replace(":-rrb-")),
        (r":-\)".to_owned(), Replace(":--rrb-")),
        (r":\(".to_owned(), Replace(":-lrb-")),
        (r":-\(".to_owned(), Replace(":--lrb-")),
        (r";\)".to_owned(), Replace(";-rrb-")),
        (r";-\)".to_owned(), Replace(";--rrb-")),
        (r"=\)".to_owned(), Replace("=-rrb-")),
        (r"[!?]+|\.{2,}|-{2,}|…|[–—]|\*+|_+|@+|#+".to_owned(), Keep),
        (r"[\x22‘’“”‹›«»]|''|``".to_owned(), Drop),
        (
            r"[$%&*+/<=>@\\^|~#¥„²³¹®©™°×÷±≈≤≥→←↑↓.,:;'`-]".to_owned(),
            Keep,
        ),
    ];
    let replaced = REPLACED.iter();
    let replaced = replaced.map(|(pattern, word)| ((*pattern).to_owned(), Replace(word)));
    let rules = rules.into_iter().chain(replaced);
    let compiled = rules.map(|(pattern, action)| {
        let anchored = Regex::new(&format!("^(?:{pattern})"));
        (anchored.expect("the rules are constant"), action)
    });
    compiled.collect()
});

/// A number after an abbreviation that needs one.
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = format!(r"^(?i:{BEFORE_NUMBERS})\.\s*[0-9]");
    Regex::new(&pattern).expect("the rule is constant")
});

/// The words of `text`, in order.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (length, action) = longest(rest);
        let (found, after) = rest.split_at(length);
        rest = after;
        // The original joins the parts of one word with a space that does not break.
        let found = found.trim().to_lowercase().replace(' ', "\u{a0}");
        match action {
            Action::Drop => {}
            Action::Replace(word) => words.push(word.to_owned()),
            Action::Two(first) => {
                let first = found
                    .char_indices()
                    .nth(first)
                    .map_or(0, |(place, _)| place);
                let (first, second) = found.split_at(first);
                words.extend([first.to_owned(), second.to_owned()]);
            }
            Action::Split => split(&found, &mut words),
            Action::Keep => {
                let is_dash = matches!(&*found, "–" | "—") || found.starts_with("--");
                let is_dots = found.starts_with("..") || found == "…";
                if !DROPPED.contains(&&*found) && !is_dash && !is_dots {
                    words.push(found);
                }
            }
        }
    }
    words
}

/// The length of the longest match at the beginning of `text`, and what becomes of it. A character that
/// no rule knows is dropped.
fn longest(text: &str) -> (usize, Action) {
    if let Some(found) = NUMBERED.find(text) {
        let period = found.as_str().find('.').unwrap_or(0);
        return (period + 1, Action::Keep);
    }
    let mut best = (0, Action::Drop);
    for (rule, action) in RULES.iter() {
        let length = rule.find(text).map_or(0, |found| found.len());
        if length > best.0 {
            best = (length, *action);
        }
    }
    let first = text.chars().next().map_or(1, char::len_utf8);
    (best.0.max(first), best.1)
}

/// A word without the contractions at its end, and then these, in their order.
fn split(word: &str, words: &mut Vec<String>) {
    let straight = word.replace('’', "'");
    let clitic = CLITICS.iter().find(|clitic| straight.ends_with(**clitic));
    let Some(clitic) = clitic else {
        return words.push(word.to_owned());
    };
    // The apostrophe may have more bytes than the straight one.
    let kept = word.chars().count() - clitic.len();
    let stem: String = word.chars().take(kept).collect();
    if !stem.is_empty() {
        split(&stem, words);
    }
    words.push((*clitic).to_owned());
}
