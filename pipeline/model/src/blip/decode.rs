//! MED as a decoder: text about a picture, token by token.

use burn::tensor::Tensor;

use super::Med;
use crate::blocks::Cache;
use crate::generate::{Decoder, State};
use crate::network::Memory;
use crate::ops;

impl Decoder for Med {
    fn positions(&self) -> usize {
        self.config.text_config.max_position_embeddings
    }

    fn start(&self) -> Option<u32> {
        Some(self.config.text_config.bos_token_id)
    }

    fn stops(&self) -> Vec<u32> {
        vec![self.config.text_config.sep_token_id]
    }

    fn prefill(&self, memory: &Memory, prompts: &[Vec<u32>], room: usize) -> (Tensor<2>, State) {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        assert!(
            prompts.iter().all(|prompt| !prompt.is_empty()),
            "a prompt has a token"
        );
        let starts: Vec<u32> = prompts
            .iter()
            .map(|prompt| (longest - prompt.len()) as u32)
            .collect();
        let pad = self.config.text_config.pad_token_id;
        let ids: Vec<u32> = prompts
            .iter()
            .zip(&starts)
            .flat_map(|(prompt, start)| {
                std::iter::repeat_n(pad, *start as usize).chain(prompt.iter().copied())
            })
            .collect();
        let padded = starts.iter().any(|start| *start > 0).then_some(starts);
        let cache = Cache::new(self.layers.len(), longest + room, padded);
        let pictures = (0..prompts.len() as u32).collect();
        let mut state = State::new(cache, memory.clone(), pictures);
        let hidden = self.decode(&ids, longest, &mut state);
        let last: Vec<u32> = (1..=prompts.len())
            .map(|row| (row * longest - 1) as u32)
            .collect();
        let logits = self.vocabulary_logits(ops::select_rows(hidden, &last));
        (logits, state)
    }

    fn step(&self, ids: &[u32], state: &mut State) -> Tensor<2> {
        let hidden = self.decode(ids, 1, state);
        self.vocabulary_logits(hidden)
    }
}

impl Med {
    /// The last layer's output for `new` tokens a row, `[rows * new, width]`.
    fn decode(&self, ids: &[u32], new: usize, state: &mut State) -> Tensor<2> {
        let rows = ids.len() / new;
        let own = state.cache.grow(rows, new);
        let at = state.cache.positions(rows, new);
        let keys = state.memory.keys(&state.pictures, rows, new);
        let mut x = self.embed_tokens(ids, &at);
        for (i, layer) in self.layers.iter().enumerate() {
            let look = (state.memory.layer(i), &keys);
            x = layer.forward_cached(x, state.cache.layer(i), &own, look);
        }
        x
    }
}
