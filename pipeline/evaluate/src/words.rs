//! The words of a caption, for CIDEr-D and BLEU.
//!
//! The reference scorers use the Penn Treebank tokenizer with lower-casing and drop punctuation. This
//! module implements the part of it that captions need:
//!
//! - everything is lower-case;
//! - a word is a run of letters and digits, with hyphens inside words and with periods or commas
//!   between digits (`t-shirt`, `3.5`);
//! - contractions are split as in the treebank: `it's` is `it 's`, `don't` is `do n't`;
//! - all other punctuation is dropped.

/// Suffixes that become words of their own.
const CLITICS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];

/// The words of `text`, in order.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase().replace('\u{2019}', "'");
    let chars: Vec<char> = lower.chars().collect();
    let mut words = Vec::new();
    let mut word = String::new();
    for (place, &c) in chars.iter().enumerate() {
        if c.is_alphanumeric() || joins(&chars, place) {
            word.push(c);
        } else if !word.is_empty() {
            split_clitic(std::mem::take(&mut word), &mut words);
        }
    }
    if !word.is_empty() {
        split_clitic(word, &mut words);
    }
    words
}

/// Whether the punctuation at `place` is inside a word.
fn joins(chars: &[char], place: usize) -> bool {
    let around = |test: fn(&char) -> bool| {
        place > 0 && test(&chars[place - 1]) && chars.get(place + 1).is_some_and(test)
    };
    match chars[place] {
        '-' | '\'' => around(|c| c.is_alphanumeric()),
        '.' | ',' => around(char::is_ascii_digit),
        _ => false,
    }
}

fn split_clitic(word: String, words: &mut Vec<String>) {
    let cut = CLITICS.iter().find_map(|clitic| word.strip_suffix(clitic));
    match cut.filter(|stem| !stem.is_empty()).map(str::len) {
        Some(stem) => words.extend([word[..stem].to_owned(), word[stem..].to_owned()]),
        None => words.push(word),
    }
}
