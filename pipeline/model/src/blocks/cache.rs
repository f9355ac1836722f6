//! Keys and values of the tokens that a decoder has read.
//!
//! Every row has room for the same number of tokens, and all rows grow together:
//! prompts of different lengths are padded on the left, where their mask starts.

use burn::tensor::Tensor;

use crate::ops::{self, Keys, Rule};

/// Keys and values of all layers.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
    /// First token of each row; 0 where absent.
    starts: Option<Vec<u32>>,
}

/// The same for one layer: `[rows, capacity, 2 * width]`, `None` before the first token.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerCache {
    kv: Option<Tensor<3>>,
}

impl Cache {
    /// An empty cache with room for `capacity` tokens a row.
    pub fn new(layers: usize, capacity: usize, starts: Option<Vec<u32>>) -> Self {
        Self {
            layers: vec![LayerCache::default(); layers],
            capacity,
            len: 0,
            starts,
        }
    }

    /// Makes room for `new` tokens in each of `rows`; what these see. Every layer's
    /// [`LayerCache::push`] follows.
    ///
    /// # Panics
    /// When there is no room.
    pub fn grow(&mut self, rows: usize, new: usize) -> Keys {
        let before = self.len;
        self.len += new;
        assert!(self.len <= self.capacity, "a text outgrows its cache");
        Keys {
            q_len: new,
            k_len: self.capacity,
            starts: self.starts.clone(),
            lengths: Some(vec![self.len as u32; rows]),
            rule: Rule::Causal { before },
            ..Keys::all(rows, new)
        }
    }

    /// Positions of the `new` tokens last made room for, `[rows * new]`.
    pub fn positions(&self, rows: usize, new: usize) -> Vec<u32> {
        let tokens = (self.len - new) as u32..self.len as u32;
        (0..rows)
            .flat_map(|row| {
                let start = self.starts.as_ref().map_or(0, |starts| starts[row]);
                // Padding has a position too; nothing looks at it.
                tokens.clone().map(move |at| at.saturating_sub(start))
            })
            .collect()
    }

    pub fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Keeps these rows, in this order; a row may be taken more than once.
    pub fn select(&mut self, rows: &[u32]) {
        for layer in &mut self.layers {
            layer.kv = layer.kv.take().map(|kv| {
                let [old, capacity, width] = kv.dims();
                let picked = ops::select_rows(kv.reshape([old, capacity * width]), rows);
                picked.reshape([rows.len(), capacity, width])
            });
        }
        if let Some(starts) = &mut self.starts {
            *starts = rows.iter().map(|row| starts[*row as usize]).collect();
        }
    }
}

impl LayerCache {
    /// Adds the new tokens of `keys`, `[rows * new, 2 * width]`; gives the whole cache as
    /// `[rows * capacity, 2 * width]`, zeros behind the last token.
    pub fn push(&mut self, new: Tensor<2>, keys: &Keys) -> Tensor<2> {
        let Rule::Causal { before } = keys.rule else {
            unreachable!("a cache is read by causal attention");
        };
        let width = new.dims()[1];
        let (rows, count, capacity) = (keys.rows, keys.q_len, keys.k_len);
        let old = self
            .kv
            .take()
            .unwrap_or_else(|| Tensor::zeros([rows, capacity, width], &new.device()));
        // Nothing else holds the old tensor: the tokens are written into it.
        let tokens = new.reshape([rows, count, width]);
        let kv = old.slice_assign([0..rows, before..before + count, 0..width], tokens);
        self.kv = Some(kv.clone());
        kv.reshape([rows * capacity, width])
    }
}
