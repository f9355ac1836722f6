//! Decoding captions: greedy, beam search and nucleus sampling with a cache of keys
//! and values.
//!
//! Each picture's tokens are a function of the picture, the prompt, the settings and
//! its own draws, whatever else is in the batch.

mod beam;
pub mod processors;
mod sample;

use crate::blip::{Med, Memory};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The likeliest token.
    Greedy,
    /// The likeliest text that a beam of this width finds.
    Beam {
        /// Texts kept at each step.
        beams: usize,
        /// Exponent of the length that a text's log probability is divided by.
        length_penalty: f64,
    },
    /// A draw among the likeliest tokens that hold this share of the probability
    /// (Holtzman et al. 2020).
    Nucleus {
        /// The share, in `0..=1`.
        top_p: f64,
        /// Divides the logits; 1 does nothing.
        temperature: f64,
        /// Tokens at most; 0 for all.
        top_k: usize,
    },
}

/// Settings of decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// New tokens before the stop token may come.
    pub min_tokens: usize,
    /// New tokens at most, the stop token included.
    pub max_tokens: usize,
    /// Divides the logits of tokens that were used already; 1 does nothing.
    pub repetition_penalty: f64,
    /// No sequence of this many tokens comes twice; 0 for no such rule.
    pub no_repeat_ngram: usize,
    /// Ids that never come: the special tokens but the stop token, for models of ours.
    pub banned: Vec<u32>,
}

/// Why nothing was decoded.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// Prompts and pictures do not pair up.
    #[error("{prompts} prompts for {pictures} pictures")]
    Prompts {
        /// Prompts given.
        prompts: usize,
        /// Pictures given.
        pictures: usize,
    },
    /// Prompts of a batch have different lengths.
    #[error("prompts of one batch must have one length, found {0} and {1} tokens")]
    PromptLengths(usize, usize),
    /// The text would outgrow the positions.
    #[error("{needed} positions are needed for prompt and max_tokens, the model has {positions}")]
    TooLong {
        /// Tokens of [DEC], prompt and new tokens.
        needed: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(&'static str),
}

/// A decoded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The prompt and the new tokens, without [DEC] and the stop token.
    pub ids: Vec<u32>,
    /// Whether the stop token came before `max_tokens`.
    pub stopped: bool,
}

/// Describes the pictures of `memory`, in order.
///
/// - `prompts`: none, or one a picture, of one length, without [DEC] and [SEP].
/// - `draw(picture, position)`: uniform in `[0, 1)`, asked for by nucleus sampling
///   alone; `position` counts new tokens.
///
/// # Errors
/// [`Error`].
///
/// # Panics
/// On a model without a decoder.
pub fn generate(
    med: &Med,
    memory: &Memory,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    draw: &dyn Fn(usize, usize) -> f64,
) -> Result<Vec<Generated>, Error> {
    let text = &med.config().text_config;
    let pictures = memory.pictures();
    if !prompts.is_empty() && prompts.len() != pictures {
        return Err(Error::Prompts {
            prompts: prompts.len(),
            pictures,
        });
    }
    let len = prompts.first().map_or(0, Vec::len);
    if let Some(other) = prompts.iter().find(|prompt| prompt.len() != len) {
        return Err(Error::PromptLengths(len, other.len()));
    }
    let (needed, positions) = (len + decoding.max_tokens, text.max_position_embeddings);
    if needed > positions {
        return Err(Error::TooLong { needed, positions });
    }
    decoding.check()?;
    let rows: Vec<Vec<u32>> = (0..pictures)
        .map(|row| {
            let prompt = prompts.get(row).into_iter().flatten();
            std::iter::once(text.bos_token_id)
                .chain(prompt.copied())
                .collect()
        })
        .collect();
    let job = Job {
        med,
        memory,
        decoding,
        stop: text.sep_token_id,
    };
    Ok(match decoding.strategy {
        Strategy::Beam {
            beams,
            length_penalty,
        } => beam::search(&job, rows, beams, length_penalty),
        Strategy::Greedy => sample::rows(&job, rows, &|scores, _, _| sample::likeliest(scores)),
        Strategy::Nucleus {
            top_p,
            temperature,
            top_k,
        } => sample::rows(&job, rows, &|scores, picture, position| {
            processors::warm(scores, temperature as f32);
            processors::keep_likeliest(scores, top_k);
            processors::keep_nucleus(scores, top_p);
            processors::pick(scores, draw(picture, position))
        }),
    })
}

impl Decoding {
    fn check(&self) -> Result<(), Error> {
        if self.max_tokens == 0 || self.min_tokens >= self.max_tokens {
            return Err(Error::Setting("max_tokens must be above min_tokens"));
        }
        if self.repetition_penalty.is_nan() || self.repetition_penalty <= 0.0 {
            return Err(Error::Setting("repetition_penalty must be above 0"));
        }
        match self.strategy {
            Strategy::Beam { beams: 0, .. } => Err(Error::Setting("a beam search needs a beam")),
            Strategy::Nucleus { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                Err(Error::Setting("top_p must be above 0 and at most 1"))
            }
            Strategy::Nucleus { temperature, .. } if temperature.is_nan() || temperature <= 0.0 => {
                Err(Error::Setting("temperature must be above 0"))
            }
            _ => Ok(()),
        }
    }
}

/// What both ways of decoding need.
struct Job<'a> {
    med: &'a Med,
    memory: &'a Memory,
    decoding: &'a Decoding,
    stop: u32,
}

impl Job<'_> {
    /// Applies repetition penalty, repeated sequences, minimum length and banned ids to the scores of
    /// the token after `tokens`, of which `new` were decoded.
    fn adjust(&self, scores: &mut [f32], tokens: &[u32], new: usize) {
        let decoding = self.decoding;
        processors::penalise(scores, tokens, decoding.repetition_penalty as f32);
        processors::forbid_ngrams(scores, tokens, decoding.no_repeat_ngram);
        if new < decoding.min_tokens {
            processors::forbid(scores, &[self.stop]);
        }
        processors::forbid(scores, &decoding.banned);
    }
}

/// Log of the softmax, in place.
fn log_softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|s| f64::from(s - max).exp()).sum();
    let log = sum.ln() as f32;
    for score in scores {
        *score = *score - max - log;
    }
}
