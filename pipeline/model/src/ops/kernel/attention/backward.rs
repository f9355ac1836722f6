//! Gradients of queries, keys and values.

use pulp::{Arch, Simd, WithSimd};

use super::forward::{scores, within};
use super::*;
use crate::ops::kernel::math::exp;

/// Where the gradients go: zeros of the sizes of the operands. Queries, keys and values are in
/// `of_q` where they are one operand.
pub(in crate::ops) struct Gradients<'a> {
    pub of_q: &'a mut [f32],
    pub of_kv: Option<&'a mut [f32]>,
}

/// A task of the backward pass.
struct Backward<'a, 'b> {
    inputs: Inputs<'a>,
    head: Head<'b>,
    /// Of the attended values, `[rows * q_len, heads * size]`.
    gradient: &'a [f32],
    softmax: &'b [Softmax],
    parts: Parts<'b>,
    scratch: &'b mut Scratch,
}

/// The parts of the gradients of a task.
#[derive(Default)]
struct Parts<'b> {
    queries: Vec<&'b mut [f32]>,
    keys: Vec<&'b mut [f32]>,
    values: Vec<&'b mut [f32]>,
}

/// Fills `gradients` from that of the attended values. `softmax` is what the forward pass gave.
pub(in crate::ops) fn backward(
    inputs: Inputs<'_>,
    gradient: &[f32],
    softmax: &[Vec<Softmax>],
    gradients: Gradients<'_>,
) {
    let heads = inputs.shape.heads;
    let rows = inputs.rows_of_blocks();
    let mut parts = Vec::new();
    parts.resize_with(rows.len() * heads, Parts::default);
    let Shape { query, key, .. } = inputs.shape;
    distribute(
        inputs,
        gradients.of_q,
        query.stride,
        gradients.of_kv.is_none(),
        &mut parts,
    );
    if let Some(of_kv) = gradients.of_kv {
        distribute(inputs, of_kv, key.stride, true, &mut parts);
    }
    let tasks = parts.into_iter().zip(softmax).enumerate();
    for_each(
        tasks.collect(),
        inputs.tasks_together(),
        |scratch, (index, (parts, softmax))| {
            let (block, head) = (index / heads, index % heads);
            let rows = &rows[block];
            Arch::new().dispatch(Backward {
                inputs,
                head: Head { rows, block, head },
                gradient,
                softmax,
                parts,
                scratch,
            });
        },
    );
}

/// Gives the heads of one operand, whose rows are `stride` long, to their tasks. It holds keys and
/// values, and queries if it is the only operand, or queries alone.
fn distribute<'b>(
    inputs: Inputs<'_>,
    operand: &'b mut [f32],
    stride: usize,
    has_keys: bool,
    parts: &mut [Parts<'b>],
) {
    let Shape {
        heads,
        size,
        key,
        value,
        ..
    } = inputs.shape;
    let Keys { q_len, k_len, .. } = *inputs.keys;
    for (token, row) in operand.chunks_exact_mut(stride).enumerate() {
        for (index, part) in row.chunks_exact_mut(size).enumerate() {
            let (head, column) = (index % heads, index / heads * heads * size);
            if has_keys && (column == key.first || column == value.first) {
                let parts = &mut parts[token / k_len * heads + head];
                let to = if column == key.first {
                    &mut parts.keys
                } else {
                    &mut parts.values
                };
                to.push(part);
            } else {
                let block = inputs.keys.block(token / q_len);
                parts[block * heads + head].queries.push(part);
            }
        }
    }
}

impl WithSimd for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            inputs,
            head,
            mut parts,
            scratch,
            ..
        } = self;
        let size = inputs.shape.size;
        let seen = head.seen(inputs.keys);
        if seen.is_empty() {
            return;
        }
        let pack = |operand, columns, steps| {
            let mut panels = Panels::new::<S>();
            panels.pack::<S>(operand, columns, steps, false);
            panels
        };
        let (key, value) = (
            inputs.keys_of(&head, seen.start),
            inputs.values_of(&head, seen.start),
        );
        let keys = pack(key.rows(), 0..seen.len(), 0..size);
        let values = pack(value.rows(), 0..seen.len(), 0..size);
        let key_columns = pack(key.columns(), 0..size, 0..seen.len());
        let (mut of_keys, mut of_values) = (
            std::mem::take(&mut scratch.of_keys),
            std::mem::take(&mut scratch.of_values),
        );
        let mut key_sums = Sums::zeros::<S>(&mut of_keys, seen.len(), size);
        let mut value_sums = Sums::zeros::<S>(&mut of_values, seen.len(), size);
        let line = size.next_multiple_of(STEP);
        let factor = (size as f32).powf(-0.5);
        let mut panels = Panels::new::<S>();
        for first in (0..parts.queries.len()).step_by(TILE_QUERIES) {
            let queries = first..parts.queries.len().min(first + TILE_QUERIES);
            let count = queries.len();
            let stride = scores(simd, inputs, head, queries.clone(), &keys, scratch);
            let width = Lanes {
                stride: inputs.shape.heads * size,
                first: 0,
            };
            inputs.gather(
                self.gradient,
                width,
                &head,
                queries.clone(),
                1.0,
                &mut scratch.gradients,
            );
            multiply(
                simd,
                (&scratch.gradients, line),
                count,
                line,
                &values,
                &mut scratch.slopes,
                &mut scratch.narrow,
            );
            let rows = scratch
                .scores
                .chunks_exact_mut(stride)
                .zip(scratch.slopes.chunks_exact_mut(stride));
            for (index, (row, slopes)) in queries.clone().zip(rows) {
                let (at, query) = head.query(inputs.keys, index);
                inputs.add_bias(&head, query, &seen, row);
                let visible = within(inputs.keys.visible(at, query), &seen);
                differentiate(row, slopes, visible, self.softmax[index], factor);
            }
            panels.pack::<S>(columns(&scratch.gradients, line), 0..size, 0..count, false);
            let weights = columns(&scratch.scores, stride);
            add_product(
                simd,
                weights,
                0..seen.len(),
                0..count,
                &panels,
                &mut value_sums,
                &mut scratch.narrow,
            );
            let lanes = inputs.shape.query;
            inputs.gather(
                inputs.q,
                lanes,
                &head,
                queries.clone(),
                1.0,
                &mut scratch.queries,
            );
            panels.pack::<S>(columns(&scratch.queries, line), 0..size, 0..count, false);
            let slopes = columns(&scratch.slopes, stride);
            add_product(
                simd,
                slopes,
                0..seen.len(),
                0..count,
                &panels,
                &mut key_sums,
                &mut scratch.narrow,
            );
            let stride = multiply(
                simd,
                (&scratch.slopes, stride),
                count,
                seen.len().next_multiple_of(STEP),
                &key_columns,
                &mut scratch.product,
                &mut scratch.narrow,
            );
            let rows = scratch.product.chunks_exact(stride);
            for (out, row) in parts.queries[queries].iter_mut().zip(rows) {
                out.copy_from_slice(&row[..size]);
            }
        }
        copy(&key_sums, &mut parts.keys[seen.clone()]);
        copy(&value_sums, &mut parts.values[seen]);
        scratch.of_keys = of_keys;
        scratch.of_values = of_values;
    }
}

/// Makes the probabilities of a row of scores, and the slopes of the products of query and key of
/// the slopes of the probabilities.
#[inline(always)]
fn differentiate(
    row: &mut [f32],
    slopes: &mut [f32],
    visible: Range<usize>,
    [max, inverse]: Softmax,
    factor: f32,
) {
    for values in [&mut *row, &mut *slopes] {
        values[..visible.start].fill(0.0);
        values[visible.end..].fill(0.0);
    }
    let (row, slopes) = (&mut row[visible.clone()], &mut slopes[visible]);
    for value in row.iter_mut() {
        *value = exp(*value - max) * inverse;
    }
    let mean = dot(slopes, row);
    for (slope, weight) in slopes.iter_mut().zip(row) {
        *slope = (*slope - mean) * *weight * factor;
    }
}

#[inline(always)]
fn copy(sums: &Sums<'_>, to: &mut [&mut [f32]]) {
    for (to, row) in to.iter_mut().zip(sums.values.chunks_exact(sums.stride)) {
        to.copy_from_slice(&row[..to.len()]);
    }
}
