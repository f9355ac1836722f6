//! What decoding asks of a network.

use burn::tensor::Tensor;

use crate::blocks::Cache;
use crate::network::Memory;

/// A network that writes texts token by token.
pub trait Decoder: Sync {
    /// Longest text in tokens that it can read.
    fn positions(&self) -> usize;

    /// The token that it puts before every prompt.
    fn start(&self) -> Option<u32>;

    /// Tokens that end a text.
    fn stops(&self) -> Vec<u32>;

    /// Reads a prompt for every picture of `memory`; prompts may differ in length. Gives the
    /// logits of the next token of each, `[rows, vocabulary]`.
    ///
    /// - `room`: tokens that [`Decoder::step`] may add to each.
    ///
    /// # Panics
    /// When a prompt is empty.
    fn prefill(&self, memory: &Memory, prompts: &[Vec<u32>], room: usize) -> (Tensor<2>, State);

    /// Reads one more token of each row; the logits of the next, `[rows, vocabulary]`.
    fn step(&self, ids: &[u32], state: &mut State) -> Tensor<2>;

    /// Goes on with these rows, in this order; a row may be taken more than once.
    fn reorder(&self, state: &mut State, rows: &[u32]) {
        state.cache.select(rows);
        state.pictures = rows
            .iter()
            .map(|row| state.pictures[*row as usize])
            .collect();
    }
}

/// What a decoder has read.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) cache: Cache,
    pub(crate) memory: Memory,
    /// Picture of each row.
    pub(crate) pictures: Vec<u32>,
}

impl State {
    pub(crate) fn new(cache: Cache, memory: Memory, pictures: Vec<u32>) -> Self {
        Self {
            cache,
            memory,
            pictures,
        }
    }
}
