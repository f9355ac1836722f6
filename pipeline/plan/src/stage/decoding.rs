//! How a decoder writes texts.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// How a decoder chooses the next token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// The likeliest token.
    Greedy,
    /// The likeliest of several sequences.
    Beam {
        /// Sequences kept.
        beams: usize,
    },
    /// Drawn from the smallest set of tokens whose probability reaches `top_p`.
    Nucleus {
        /// The probability to reach.
        top_p: f64,
        /// Divides the logits before the draw: above 1 unlikely tokens become likelier.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        temperature: f64,
        /// Tokens of the set at most, the likeliest ones; 0 for all. Hugging Face's `generate` has 50 where
        /// nothing is said.
        #[serde(default, skip_serializing_if = "is_zero")]
        top_k: usize,
    },
}

/// Decoding settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoding {
    /// How the next token is chosen.
    pub choose: Strategy,
    /// What every text begins with, such as `"a picture of "`; it is not part of the caption.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// New tokens before the stop token at least.
    #[serde(default = "min_tokens")]
    pub min_tokens: usize,
    /// New tokens at most. Hugging Face's `max_length` and `min_length` count the first token and
    /// those of the prompt as well.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
    /// Penalty on tokens already there; 1 is none.
    #[serde(default = "one")]
    pub repetition_penalty: f64,
    /// No sequence of this many tokens is written twice; 0 for no such rule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub no_repeat_ngram: usize,
}

impl Decoding {
    /// Whether it draws tokens, so that the seed shapes what it writes.
    pub(super) fn draws(&self) -> bool {
        matches!(self.choose, Strategy::Nucleus { .. })
    }

    /// States the rules of the settings.
    pub(super) fn check(&self, check: &mut Check) {
        check.any("choose.strategy", "each of the names is meant");
        match self.choose {
            Strategy::Greedy => {}
            Strategy::Beam { beams } => check.integer("choose.beams", beams, 1..=1_000),
            Strategy::Nucleus {
                top_p,
                temperature,
                top_k,
            } => {
                let range = (Bound::Excluded(0.0), Bound::Included(1.0));
                check.number("choose.top_p", top_p, range);
                let range = (Bound::Excluded(0.0), Bound::Included(100.0));
                check.number("choose.temperature", temperature, range);
                check.integer("choose.top_k", top_k, 0..=1_000_000);
            }
        }
        check.any("prompt", "any text may begin a caption");
        check.integer("min_tokens", self.min_tokens, 0..=65_535);
        let least = self.min_tokens.saturating_add(1);
        check.integer("max_tokens", self.max_tokens, least..=65_536);
        let range = (Bound::Excluded(0.0), Bound::Included(100.0));
        check.number("repetition_penalty", self.repetition_penalty, range);
        check.integer("no_repeat_ngram", self.no_repeat_ngram, 0..=65_535);
    }
}

fn min_tokens() -> usize {
    4
}

fn max_tokens() -> usize {
    30
}

fn one() -> f64 {
    1.0
}

fn is_one(number: &f64) -> bool {
    *number == 1.0
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
