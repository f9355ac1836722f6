//! The operations as compositions of the library's primitives: any device, and
//! the reference that the fused ones are held against.

use burn::tensor::{Device, Int, Tensor, TensorData, activation as act};
use std::f64::consts::FRAC_1_SQRT_2;

use super::{Keys, Targets};
use crate::config::Activation;

pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

pub(crate) fn layer_norm(
    x: Tensor<2>,
    gain: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().powi_scalar(2).mean_dim(1);
    centred / (variance + epsilon).sqrt() * gain.unsqueeze() + bias.unsqueeze()
}

pub(crate) fn activation(x: Tensor<2>, kind: Activation) -> Tensor<2> {
    match kind {
        // Written out, because the derivative of the library's gelu is that of the tanh form.
        Activation::Gelu => {
            let distribution = (x.clone() * FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
            x * distribution
        }
        Activation::QuickGelu => x.clone() * act::sigmoid(x * 1.702),
    }
}

/// - `query`: `[rows * q_len, width]`; `key`, `value`: `[blocks * k_len, width]`.
/// - `factors`: of the attention weights, `[rows, heads, q_len, k_len]`.
pub(crate) fn attention(
    [query, key, value]: [Tensor<2>; 3],
    heads: usize,
    keys: &Keys,
    factors: Option<Tensor<4>>,
) -> Tensor<2> {
    let device = query.device();
    let [_, width] = query.dims();
    let size = width / heads;
    let split = |x: Tensor<2>, len: usize| {
        let rows = x.dims()[0] / len;
        x.reshape([rows, len, heads, size]).swap_dims(1, 2)
    };
    let pick = |x: Tensor<4>| match &keys.index {
        Some(index) => x.select(0, indices(index, &device)),
        None => x,
    };
    let query = split(query, keys.q_len);
    let (key, value) = (pick(split(key, keys.k_len)), pick(split(value, keys.k_len)));
    let mut scores = query.matmul(key.swap_dims(2, 3)) * (size as f64).powf(-0.5);
    let shape = [keys.rows, heads, keys.q_len, keys.k_len];
    if let Some(bias) = &keys.bias {
        let bias = TensorData::new(bias.to_vec(), [1, heads, keys.q_len, keys.k_len]);
        scores = scores + Tensor::from_data(bias, &device);
    }
    let hidden = keys.hidden(&device).map(|hidden| hidden.expand(shape));
    if let Some(hidden) = &hidden {
        scores = scores.mask_fill(hidden.clone(), HIDDEN_SCORE);
    }
    let mut weights = act::softmax(scores, 3);
    if let Some(hidden) = hidden {
        // The softmax of a query that sees no key is uniform.
        weights = weights.mask_fill(hidden, 0.0);
    }
    if let Some(factors) = factors {
        weights = weights * factors;
    }
    weights
        .matmul(value)
        .swap_dims(1, 2)
        .reshape([keys.rows * keys.q_len, width])
}

/// Score of a hidden key. It is finite, because the softmax of infinities alone is NaN.
const HIDDEN_SCORE: f32 = -1e30;

pub(crate) fn picture_tokens(
    patches: Tensor<2>,
    class: Tensor<1>,
    positions: Tensor<2>,
    batch: usize,
) -> Tensor<2> {
    let [rows, width] = patches.dims();
    let count = rows / batch;
    let class = class.reshape([1, 1, width]).expand([batch, 1, width]);
    let tokens = Tensor::cat(vec![class, patches.reshape([batch, count, width])], 1);
    (tokens + positions.unsqueeze()).reshape([batch * (count + 1), width])
}

pub(crate) fn embed(ids: &[u32], words: Tensor<2>, positions: Tensor<2>, at: &[u32]) -> Tensor<2> {
    let device = words.device();
    words.select(0, indices(ids, &device)) + positions.select(0, indices(at, &device))
}

pub(crate) fn select_rows(x: Tensor<2>, rows: &[u32]) -> Tensor<2> {
    let device = x.device();
    x.select(0, indices(rows, &device))
}

pub(crate) fn normalise(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().powi_scalar(2).sum_dim(1).sqrt();
    x / norm
}

pub(crate) fn cross_entropy_sum(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let device = logits.device();
    let [_, classes] = logits.dims();
    let log = act::log_softmax(logits, 1);
    let picked = log
        .clone()
        .gather(1, indices(targets.classes, &device).unsqueeze_dim(1));
    let smoothing = targets.smoothing;
    if smoothing == 0.0 {
        return -picked.sum();
    }
    -(picked.sum() * (1.0 - smoothing) + log.sum() * (smoothing / classes as f64))
}

fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|v| i64::from(*v)).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}
