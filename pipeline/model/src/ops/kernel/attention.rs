//! Attention of rows over their keys, forward and backward, head by head on the
//! interleaved layout that the projections give: nothing is permuted.

use super::math::{LANES, Strided, add_scaled, combine, dot, softmax};
use crate::ops::Keys;
use std::ops::Range;

/// Where the heads of one operand lie.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Lanes {
    /// Length of a row of the operand.
    pub stride: usize,
    /// First column of what is meant: query, key or value.
    pub first: usize,
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Shape {
    pub heads: usize,
    /// Width of a head.
    pub size: usize,
    pub query: Lanes,
    pub key: Lanes,
    pub value: Lanes,
}

impl Lanes {
    #[inline(always)]
    fn at(self, row: usize, head: usize, size: usize) -> usize {
        row * self.stride + self.first + head * size
    }

    /// The part of `values` that begins there.
    #[inline(always)]
    fn of(self, values: &[f32], row: usize, head: usize, size: usize) -> Strided<'_> {
        Strided {
            values: &values[self.at(row, head, size)..],
            stride: self.stride,
        }
    }
}

/// Length of a row of scores: whole vectors, zero behind the last key.
fn padded(k_len: usize) -> usize {
    k_len.next_multiple_of(LANES)
}

/// The keys of a row that at least one query sees are in this run.
fn seen(keys: &Keys, row: usize) -> Range<usize> {
    let runs = (0..keys.q_len).map(|query| keys.visible(row, query));
    let runs = runs.filter(|run| !run.is_empty());
    let hull = runs.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
    hull.unwrap_or(0..0)
}

/// `[size][padded]` of the keys or values of a block that are `seen`, zero elsewhere.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn transpose(
    from: &[f32],
    lanes: Lanes,
    block: usize,
    len: usize,
    seen: Range<usize>,
    head: usize,
    size: usize,
    to: &mut Vec<f32>,
) {
    let padded = padded(len);
    to.clear();
    to.resize(size * padded, 0.0);
    for key in seen {
        let row = &from[lanes.at(block * len + key, head, size)..][..size];
        for (d, value) in row.iter().enumerate() {
            to[d * padded + key] = *value;
        }
    }
}

vectorised! {
/// Writes the attended values to `out` `[rows * q_len, heads * size]` and gives the
/// probabilities `[rows][heads][q_len][padded]`.
fn forward<'a>(q: &'a [f32], kv: &'a [f32], shape: Shape, keys: &'a Keys, out: &'a mut [f32]) -> Vec<f32> {
    let Shape { heads, size, query, key, value } = shape;
    let scale = (size as f32).powf(-0.5);
    let (q_len, k_len, width) = (keys.q_len, keys.k_len, heads * size);
    let padded = padded(k_len);
    let mut probabilities = vec![0.0; keys.rows * heads * q_len * padded];
    let mut transposed = Vec::new();
    let mut scaled = vec![0.0; size];
    for row in 0..keys.rows {
        let (block, seen) = (keys.block(row), seen(keys, row));
        for head in 0..heads {
            transpose(kv, key, block, k_len, seen.clone(), head, size, &mut transposed);
            let first = (row * heads + head) * q_len * padded;
            let scores = &mut probabilities[first..first + q_len * padded];
            for (i, scores) in scores.chunks_exact_mut(padded).enumerate() {
                let q = &q[query.at(row * q_len + i, head, size)..][..size];
                for (scaled, q) in scaled.iter_mut().zip(q) {
                    *scaled = q * scale;
                }
                let weights = Strided { values: &scaled, stride: 1 };
                combine(scores, size, weights, Strided { values: &transposed, stride: padded });
                if let Some(bias) = &keys.bias {
                    add_scaled(&mut scores[..k_len], 1.0, &bias[(head * q_len + i) * k_len..][..k_len]);
                }
                let visible = keys.visible(row, i);
                softmax(scores, visible.clone());
                let out = &mut out[(row * q_len + i) * width + head * size..][..size];
                let weights = Strided { values: &scores[visible.start..], stride: 1 };
                combine(out, visible.len(), weights, value.of(kv, block * k_len + visible.start, head, size));
            }
        }
    }
    probabilities
}

/// Gradients of what the queries and the keys and values lie in, from that of the
/// attended values. `of_q` and `of_kv` are one slice where they lie in one operand.
fn backward<'a>(
    gradient: &'a [f32],
    q: &'a [f32],
    kv: &'a [f32],
    probabilities: &'a [f32],
    shape: Shape,
    keys: &'a Keys,
    of_q: &'a mut [f32],
    of_kv: Option<&'a mut [f32]>,
) -> () {
    let Shape { heads, size, query, key, value } = shape;
    let scale = (size as f32).powf(-0.5);
    let (q_len, k_len, width) = (keys.q_len, keys.k_len, heads * size);
    let padded = padded(k_len);
    let mut own = of_kv;
    let mut transposed = Vec::new();
    let mut slopes = vec![0.0; q_len * padded];
    let mut sums = vec![0.0; size];
    for row in 0..keys.rows {
        let (block, seen) = (keys.block(row), seen(keys, row));
        for head in 0..heads {
            transpose(kv, value, block, k_len, seen.clone(), head, size, &mut transposed);
            let first = (row * heads + head) * q_len * padded;
            let weights = &probabilities[first..first + q_len * padded];
            let outgoing = Strided { values: &gradient[row * q_len * width + head * size..], stride: width };
            for (i, (weights, slopes)) in
                weights.chunks_exact(padded).zip(slopes.chunks_exact_mut(padded)).enumerate()
            {
                let gradient = Strided { values: &outgoing.values[i * width..], stride: 1 };
                combine(slopes, size, gradient, Strided { values: &transposed, stride: padded });
                let mean = dot(slopes, weights);
                for (slope, weight) in slopes.iter_mut().zip(weights) {
                    *slope = (*slope - mean) * weight * scale;
                }
                let of_query = &mut of_q[query.at(row * q_len + i, head, size)..][..size];
                let visible = keys.visible(row, i);
                let slopes = Strided { values: &slopes[visible.start..], stride: 1 };
                combine(of_query, visible.len(), slopes, key.of(kv, block * k_len + visible.start, head, size));
            }
            let of_kv = own.as_deref_mut().unwrap_or(&mut *of_q);
            for j in seen.clone() {
                // Hidden pairs have weight and slope 0. Several rows may look at one block.
                let column = |values| Strided { values, stride: padded };
                combine(&mut sums, q_len, column(&weights[j..]), outgoing);
                add_scaled(&mut of_kv[value.at(block * k_len + j, head, size)..][..size], 1.0, &sums);
                combine(&mut sums, q_len, column(&slopes[j..]), query.of(q, row * q_len, head, size));
                add_scaled(&mut of_kv[key.at(block * k_len + j, head, size)..][..size], 1.0, &sums);
            }
        }
    }
}
}
