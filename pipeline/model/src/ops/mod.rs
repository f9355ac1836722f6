//! The operations that networks are made of.
//!
//! Activations are matrices `[rows * tokens, width]`: no operation permutes or
//! copies to split heads.

mod fused;
mod kernel;
mod keys;
mod plain;
pub mod timed;

use burn::tensor::Tensor;

use crate::config::Activation;
use crate::params::Param;

pub(crate) use keys::{Keys, Rule};

/// Classes to predict, one a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets<'a> {
    pub classes: &'a [u32],
    /// Share of the target's weight that is spread over all classes.
    pub smoothing: f64,
}

/// `x W^T + b`: `[rows, inputs]` to `[rows, outputs]`.
pub(crate) fn linear(x: Tensor<2>, weight: &Param, bias: Option<&Param>) -> Tensor<2> {
    if fused::on_cpu(&x) {
        return fused::linear(x, weight.tensor(), bias.map(Param::tensor));
    }
    let [_, inputs] = x.dims();
    plain::linear(x, weight.matrix(inputs), bias.map(Param::tensor))
}

/// Layer norm of every row.
pub(crate) fn layer_norm(x: Tensor<2>, gain: &Param, bias: &Param, epsilon: f64) -> Tensor<2> {
    if fused::on_cpu(&x) {
        return fused::layer_norm(x, gain.tensor(), bias.tensor(), epsilon);
    }
    plain::layer_norm(x, gain.tensor(), bias.tensor(), epsilon)
}

/// Layer norm of every row of `x + y`.
pub(crate) fn add_layer_norm(
    x: Tensor<2>,
    y: Tensor<2>,
    gain: &Param,
    bias: &Param,
    epsilon: f64,
) -> Tensor<2> {
    if fused::on_cpu(&x) {
        return fused::add_layer_norm(x, y, gain.tensor(), bias.tensor(), epsilon);
    }
    plain::layer_norm(x + y, gain.tensor(), bias.tensor(), epsilon)
}

/// The activation of every value.
pub(crate) fn activation(x: Tensor<2>, kind: Activation) -> Tensor<2> {
    if fused::on_cpu(&x) {
        fused::activation(x, kind)
    } else {
        plain::activation(x, kind)
    }
}

/// Attention of each row over itself: `qkv` is `[rows * len, 3 * width]`.
///
/// - `factors`: of the attention weights, `[rows, heads, q_len, k_len]`, in training with dropout.
pub(crate) fn self_attention(
    qkv: Tensor<2>,
    heads: usize,
    keys: &Keys,
    factors: Option<Tensor<4>>,
) -> Tensor<2> {
    // The fused form keeps no weights that factors could be applied to.
    if fused::on_cpu(&qkv) && factors.is_none() {
        return fused::attention(qkv, None, heads, keys);
    }
    let width = qkv.dims()[1] / 3;
    let third = |i: usize| qkv.clone().narrow(1, i * width, width);
    plain::attention([third(0), third(1), third(2)], heads, keys, factors)
}

/// Attention of `query` `[rows * q_len, width]` over `kv` `[blocks * k_len, 2 * width]`.
///
/// - `factors`: as of [`self_attention`].
pub(crate) fn cross_attention(
    query: Tensor<2>,
    kv: Tensor<2>,
    heads: usize,
    keys: &Keys,
    factors: Option<Tensor<4>>,
) -> Tensor<2> {
    if fused::on_cpu(&query) && factors.is_none() {
        return fused::attention(query, Some(kv), heads, keys);
    }
    let width = query.dims()[1];
    let (key, value) = (kv.clone().narrow(1, 0, width), kv.narrow(1, width, width));
    plain::attention([query, key, value], heads, keys, factors)
}

/// Patches of pictures `[batch, channels, side, side]` as rows
/// `[batch * patches, channels * patch * patch]`, in the order of a convolution's weights.
pub(crate) fn patches(pixels: Tensor<4>, patch: usize) -> Tensor<2> {
    let [batch, channels, height, width] = pixels.dims();
    let (down, across) = (height / patch, width / patch);
    pixels
        .reshape([batch, channels, down, patch, across, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch * down * across, channels * patch * patch])
}

/// Puts the class token before the patches of each picture and adds the positions,
/// `[tokens * width]`.
pub(crate) fn picture_tokens(
    patches: Tensor<2>,
    class: &Param,
    positions: Tensor<1>,
    batch: usize,
) -> Tensor<2> {
    if fused::on_cpu(&patches) {
        return fused::picture_tokens(patches, class.tensor(), positions, batch);
    }
    let [_, width] = patches.dims();
    let tokens = positions.dims()[0] / width;
    plain::picture_tokens(
        patches,
        class.tensor(),
        positions.reshape([tokens, width]),
        batch,
    )
}

/// Word and position embeddings of `ids`, whose positions are `at`.
pub(crate) fn embed(
    ids: &[u32],
    words: &Param,
    positions: &Param,
    at: &[u32],
    width: usize,
) -> Tensor<2> {
    if fused::on_cpu(&words.tensor()) {
        return fused::embed(ids, words.tensor(), positions.tensor(), at, width);
    }
    plain::embed(ids, words.matrix(width), positions.matrix(width), at)
}

/// The rows of these numbers.
pub(crate) fn select_rows(x: Tensor<2>, rows: &[u32]) -> Tensor<2> {
    if fused::on_cpu(&x) {
        fused::select_rows(x, rows)
    } else {
        plain::select_rows(x, rows)
    }
}

/// Every row divided by its length.
pub(crate) fn normalise(x: Tensor<2>) -> Tensor<2> {
    if fused::on_cpu(&x) {
        fused::normalise(x)
    } else {
        plain::normalise(x)
    }
}

/// Sum over rows of the cross entropy, `[1]`.
pub(crate) fn cross_entropy_sum(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    if fused::on_cpu(&logits) {
        return fused::cross_entropy_sum(logits, targets);
    }
    plain::cross_entropy_sum(logits, targets)
}
