//! The fused operations for `examples/kernels.rs`, which times them one by one.

use burn::tensor::Tensor;

use super::{Keys, Targets, fused};
use crate::config::Activation;

/// `x W^T + b` with `W` flat.
pub fn linear(x: Tensor<2>, weight: Tensor<1>, bias: Option<Tensor<1>>) -> Tensor<2> {
    fused::linear(x, weight, bias)
}

/// Attention of each row of `qkv` over itself.
pub fn self_attention(qkv: Tensor<2>, heads: usize, rows: usize) -> Tensor<2> {
    let len = qkv.dims()[0] / rows;
    fused::attention(qkv, None, heads, &Keys::all(rows, len))
}

/// Attention of the rows of `query` over the same number of blocks of `kv`.
pub fn cross_attention(query: Tensor<2>, kv: Tensor<2>, heads: usize, rows: usize) -> Tensor<2> {
    let keys = Keys {
        q_len: query.dims()[0] / rows,
        ..Keys::all(rows, kv.dims()[0] / rows)
    };
    fused::attention(query, Some(kv), heads, &keys)
}

/// Layer norm of rows.
pub fn layer_norm(x: Tensor<2>, gain: Tensor<1>, bias: Tensor<1>) -> Tensor<2> {
    fused::layer_norm(x, gain, bias, 1e-5)
}

/// The exact GELU.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    fused::activation(x, Activation::Gelu)
}

/// Sum of the cross entropies of rows.
pub fn cross_entropy(logits: Tensor<2>, classes: &[u32]) -> Tensor<1> {
    let targets = Targets {
        classes,
        smoothing: 0.1,
    };
    fused::cross_entropy_sum(logits, &targets)
}
