//! Decoding captions: greedy, beam search and nucleus sampling with a cache of keys
//! and values.
//!
//! Each picture's tokens are a function of the picture, the prompt, the settings and
//! its own draws, whatever else is in the batch.

mod beam;
mod decoder;
pub mod processors;
mod sample;

use crate::network::Memory;

pub use decoder::{Decoder, State};

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
    /// There is nothing to begin a text with.
    #[error("this model begins with the prompt, and the prompt of picture {0} is empty")]
    NoPrompt(usize),
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
/// - `prompts`: none, or one a picture, without the decoder's own first and last tokens.
/// - `draw(picture, position)`: uniform in `[0, 1)`, asked for by nucleus sampling
///   alone; `position` counts new tokens.
///
/// # Errors
/// [`Error`].
pub fn generate(
    decoder: &dyn Decoder,
    memory: &Memory,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    draw: &(dyn Fn(usize, usize) -> f64 + Sync),
) -> Result<Vec<Generated>, Error> {
    decoding.check()?;
    let job = Job {
        decoder,
        memory,
        decoding,
        stops: decoder.stops(),
        rows: rows(decoder, memory.pictures(), prompts)?,
    };
    let longest = job.rows.iter().map(Vec::len).max().unwrap_or(0);
    // The last new token is never read.
    let (needed, positions) = (longest + decoding.max_tokens - 1, decoder.positions());
    if needed > positions {
        return Err(Error::TooLong { needed, positions });
    }
    Ok(match decoding.strategy {
        Strategy::Beam {
            beams,
            length_penalty,
        } => beam::search(&job, beams, length_penalty),
        Strategy::Greedy => sample::rows(&job, &|scores, _, _| sample::likeliest(scores)),
        Strategy::Nucleus {
            top_p,
            temperature,
            top_k,
        } => sample::rows(&job, &|scores, picture, position| {
            processors::warm(scores, temperature as f32);
            processors::keep_likeliest(scores, top_k);
            let candidates = processors::nucleus(scores, top_p);
            processors::pick(&candidates, draw(picture, position))
        }),
    })
}

/// The tokens that each text begins with.
fn rows(
    decoder: &dyn Decoder,
    pictures: usize,
    prompts: &[Vec<u32>],
) -> Result<Vec<Vec<u32>>, Error> {
    if !prompts.is_empty() && prompts.len() != pictures {
        return Err(Error::Prompts {
            prompts: prompts.len(),
            pictures,
        });
    }
    let row = |picture| {
        let prompt = prompts.get(picture).into_iter().flatten();
        let row: Vec<u32> = decoder.start().into_iter().chain(prompt.copied()).collect();
        if row.is_empty() {
            return Err(Error::NoPrompt(picture));
        }
        Ok(row)
    };
    (0..pictures).map(row).collect()
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
    decoder: &'a dyn Decoder,
    memory: &'a Memory,
    decoding: &'a Decoding,
    stops: Vec<u32>,
    /// What each text begins with.
    rows: Vec<Vec<u32>>,
}

impl Job<'_> {
    /// Reads the beginnings: the logits of the next token, `[rows, vocabulary]`.
    fn prefill(&self) -> (Scores, State) {
        let room = self.decoding.max_tokens - 1;
        let (logits, state) = self.decoder.prefill(self.memory, &self.rows, room);
        (Scores::new(logits), state)
    }

    /// Reads one more token of each row.
    fn step(&self, ids: &[u32], state: &mut State) -> Scores {
        Scores::new(self.decoder.step(ids, state))
    }

    /// The text of row `row` without the decoder's own first token.
    fn generated(&self, mut tokens: Vec<u32>, stopped: bool) -> Generated {
        let first = usize::from(self.decoder.start().is_some());
        Generated {
            ids: tokens.split_off(first),
            stopped,
        }
    }

    fn stops(&self, token: u32) -> bool {
        self.stops.contains(&token)
    }

    /// Applies repetition penalty, repeated sequences, minimum length and banned ids to the scores of
    /// the token after `tokens`, of which `new` were decoded.
    fn adjust(&self, scores: &mut [f32], tokens: &[u32], new: usize) {
        let decoding = self.decoding;
        processors::penalise(scores, tokens, decoding.repetition_penalty as f32);
        processors::forbid_ngrams(scores, tokens, decoding.no_repeat_ngram);
        if new < decoding.min_tokens {
            processors::forbid(scores, &self.stops);
        }
        processors::forbid(scores, &decoding.banned);
    }
}

/// Scores of the next token of every row.
struct Scores {
    values: Vec<f32>,
    vocabulary: usize,
}

impl Scores {
    /// `logits`: `[rows, vocabulary]`.
    fn new(logits: burn::tensor::Tensor<2>) -> Self {
        let [_, vocabulary] = logits.dims();
        let values = logits.into_data().try_into_vec();
        Self {
            values: values.expect("logits are f32"),
            vocabulary,
        }
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
