//! The parts of a BERT layer (Devlin et al. 2019), which norms what comes out of them.

use burn::tensor::{Device, Tensor};

use super::{LayerCache, LayerNorm, Linear};
use crate::config::Tower;
use crate::ops::{self, Keys};
use crate::params::params;

/// Self-attention with its output map and norm.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

params!(SelfAttention { qkv, out, norm });

impl SelfAttention {
    pub fn new(prefix: &str, tower: &Tower, device: &Device) -> Self {
        let width = tower.width;
        let qkv = ["query", "key", "value"].map(|name| (format!("{prefix}.self.{name}"), width));
        let output = |end: &str| format!("{prefix}.output.{end}");
        Self {
            qkv: Linear::stacked(&qkv, width, true, device),
            out: Linear::new(&output("dense"), width, width, true, device),
            norm: LayerNorm::new(&output("LayerNorm"), width, tower.epsilon, device),
            heads: tower.heads,
        }
    }

    /// Each row over itself.
    pub fn forward(&self, x: Tensor<2>, keys: &Keys) -> Tensor<2> {
        let qkv = self.qkv.forward(x.clone());
        let attended = ops::self_attention(qkv, self.heads, keys);
        self.norm.of_sum(x, self.out.forward(attended))
    }

    /// New tokens of each row over themselves and the earlier ones in `cache`, which grows by them.
    pub fn forward_cached(&self, x: Tensor<2>, cache: &mut LayerCache, keys: &Keys) -> Tensor<2> {
        let width = x.dims()[1];
        let qkv = self.qkv.forward(x.clone());
        let query = qkv.clone().narrow(1, 0, width);
        let kv = cache.push(qkv.narrow(1, width, 2 * width), keys);
        let attended = ops::cross_attention(query, kv, self.heads, keys);
        self.norm.of_sum(x, self.out.forward(attended))
    }
}

/// Attention to something else, such as the tokens of a picture, with its output map and norm.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    query: Linear,
    kv: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

params!(CrossAttention {
    query,
    kv,
    out,
    norm
});

impl CrossAttention {
    /// - `other`: width of what is looked at.
    pub fn new(prefix: &str, tower: &Tower, other: usize, device: &Device) -> Self {
        let width = tower.width;
        let kv = ["key", "value"].map(|name| (format!("{prefix}.self.{name}"), width));
        let output = |end: &str| format!("{prefix}.output.{end}");
        Self {
            query: Linear::new(&format!("{prefix}.self.query"), width, width, true, device),
            kv: Linear::stacked(&kv, other, true, device),
            out: Linear::new(&output("dense"), width, width, true, device),
            norm: LayerNorm::new(&output("LayerNorm"), width, tower.epsilon, device),
            heads: tower.heads,
        }
    }

    /// Keys and values of what is looked at, `[rows, 2 * width]`.
    pub fn keys_and_values(&self, other: Tensor<2>) -> Tensor<2> {
        self.kv.forward(other)
    }

    /// `x` over `kv` of [`CrossAttention::keys_and_values`].
    pub fn forward(&self, x: Tensor<2>, kv: Tensor<2>, keys: &Keys) -> Tensor<2> {
        let query = self.query.forward(x.clone());
        let attended = ops::cross_attention(query, kv, self.heads, keys);
        self.norm.of_sum(x, self.out.forward(attended))
    }
}
