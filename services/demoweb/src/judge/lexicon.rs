//! Converts a text to tokens with a meaning in a world. The longest phrase matches first.

use crate::scene::{Background, Colour, Object, Size};
use crate::wording::plural;
use crate::world::Words;

/// The position of one thing relative to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Above,
    Below,
}

/// The meaning of a word or phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A noun for a kind of thing, and whether it is plural.
    Object(Object, bool),
    Colour(Colour),
    Size(Size),
    Number(usize),
    /// "a", "an", "another".
    Article,
    /// "the".
    Definite,
    /// "some", "several", "many".
    Several,
    /// "no", "without".
    No,
    Background(Background),
    Side(Side),
    /// "and", "with", "next to".
    Join,
    /// "in", "is", "are": the following adjective refers to the preceding noun.
    Of,
    /// Punctuation that starts a new sentence.
    Stop,
    /// A word without a meaning here.
    Other,
}

/// The words of a world by meaning.
#[derive(Debug, Clone)]
pub(super) struct Lexicon {
    /// Phrases as words, longest first.
    phrases: Vec<(Vec<String>, Token)>,
}

impl Lexicon {
    pub(super) fn new(words: &Words) -> Self {
        let mut phrases = Vec::new();
        let mut add = |phrase: &str, token: Token| phrases.push((split(phrase), token));
        for (object, nouns) in &words.objects {
            for noun in nouns {
                add(noun, Token::Object(*object, false));
                add(&plural(noun), Token::Object(*object, true));
                add(&format!("{noun}s"), Token::Object(*object, true));
            }
        }
        for (colour, list) in &words.colours {
            list.iter()
                .for_each(|word| add(word, Token::Colour(*colour)));
        }
        for (size, list) in &words.sizes {
            list.iter().for_each(|word| add(word, Token::Size(*size)));
        }
        for (background, list) in words.places.iter().chain(&words.backgrounds) {
            list.iter()
                .for_each(|phrase| add(phrase, Token::Background(*background)));
        }
        for (side, list) in [
            (Side::Left, &words.left_of),
            (Side::Right, &words.right_of),
            (Side::Above, &words.above),
            (Side::Below, &words.below),
        ] {
            list.iter()
                .for_each(|phrase| add(phrase, Token::Side(side)));
        }
        for (number, word) in words.numbers.iter().enumerate() {
            add(word, Token::Number(number));
        }
        for (list, token) in [
            (&["a", "an", "another"][..], Token::Article),
            (&["the"], Token::Definite),
            (&["some", "several", "many", "few"], Token::Several),
            (&["no", "without"], Token::No),
            (&["and", "with", "next to", "beside", "&"], Token::Join),
            (&["in", "is", "are"], Token::Of),
            (
                &[".", ":", ";", "!", "?", "|", "-", "(", ")", "#"],
                Token::Stop,
            ),
            (&[","], Token::Join),
        ] {
            list.iter().for_each(|phrase| add(phrase, token));
        }
        phrases.retain(|(words, _)| !words.is_empty());
        // The sort is stable: of two equal phrases the world's comes first.
        phrases.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
        Self { phrases }
    }

    /// The tokens of a text in order.
    pub(super) fn tokens(&self, text: &str) -> Vec<Token> {
        let words = split(text);
        let mut tokens = Vec::new();
        let mut rest = &words[..];
        while !rest.is_empty() {
            let known = self
                .phrases
                .iter()
                .find(|(phrase, _)| rest.starts_with(phrase));
            let (length, token) = match known {
                Some((phrase, token)) => (phrase.len(), *token),
                None => (1, digits(&rest[0])),
            };
            tokens.push(token);
            rest = &rest[length..];
        }
        tokens
    }
}

/// Small numbers count things; longer numbers are years, file numbers and prices.
fn digits(word: &str) -> Token {
    match word.parse::<usize>() {
        Ok(number) if word.len() <= 2 && !word.starts_with('0') => Token::Number(number),
        _ => Token::Other,
    }
}

/// Splits a text into lower-case words of letters or digits. Every other character is its own word.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open: Option<bool> = None;
    for c in text.chars().flat_map(char::to_lowercase) {
        let class = if c.is_alphabetic() {
            Some(true)
        } else if c.is_numeric() {
            Some(false)
        } else {
            None
        };
        match (class, words.last_mut()) {
            (Some(_), Some(word)) if open == class => word.push(c),
            (Some(_), _) => words.push(c.into()),
            (None, _) if !c.is_whitespace() => words.push(c.into()),
            _ => {}
        }
        open = class;
    }
    words
}
