//! Gradients of queries, keys and values.

use pulp::{Arch, Simd, WithSimd};
use std::mem::take;

use super::forward::{scores, within};
use super::*;
use crate::ops::kernel::math::{LANES, clear_outside, copy, exp_visible, mask};

/// Where the gradients go: zeros of the sizes of the operands. Queries, keys and values are in
/// `of_q` where they are one operand.
pub(in crate::ops) struct Gradients<'a> {
    pub of_q: &'a mut [f32],
    pub of_kv: Option<&'a mut [f32]>,
}

/// A task of the backward pass.
struct Backward<'a, 'b> {
    source: Source<'a, 'b>,
    kept: &'b Kept,
    parts: Parts<'b>,
    scratch: &'b mut Scratch,
}

/// What a task reads.
#[derive(Clone, Copy)]
struct Source<'a, 'b> {
    inputs: Inputs<'a>,
    head: Head<'b>,
    /// Of the attended values, `[rows * q_len, heads * size]`.
    gradient: &'a [f32],
}

/// The parts of the gradients of a task.
struct Parts<'b> {
    queries: Vec<&'b mut [f32]>,
    keys: Vec<&'b mut [f32]>,
    values: Vec<&'b mut [f32]>,
}

impl Parts<'_> {
    fn with_capacity(queries: usize, keys: usize) -> Self {
        Self {
            queries: Vec::with_capacity(queries),
            keys: Vec::with_capacity(keys),
            values: Vec::with_capacity(keys),
        }
    }
}

/// Fills `gradients` from that of the attended values. `kept` is what the forward pass gave.
pub(in crate::ops) fn backward(
    inputs: Inputs<'_>,
    gradient: &[f32],
    kept: &[Kept],
    gradients: Gradients<'_>,
) {
    let heads = inputs.shape.heads;
    let blocks = inputs.blocks();
    let mut parts = Vec::new();
    for block in &blocks {
        let part = || Parts::with_capacity(block.queries.len(), inputs.keys.k_len);
        parts.extend(std::iter::repeat_with(part).take(heads));
    }
    let Gradients { of_q, of_kv } = gradients;
    distribute(inputs, of_q, of_kv.is_none(), &mut parts);
    if let Some(of_kv) = of_kv {
        distribute_keys(inputs, of_kv, &mut parts);
    }
    let tasks = parts.into_iter().zip(kept).enumerate().collect();
    let task = |scratch: &mut Scratch, (index, (parts, kept)): (usize, (_, &Kept))| {
        Arch::new().dispatch(Backward {
            source: Source {
                inputs,
                head: Head::new(&blocks, index / heads, index % heads),
                gradient,
            },
            kept,
            parts,
            scratch,
        });
    };
    for_each(tasks, inputs.tasks_together(), task);
}

/// Gives the queries, and the keys and values if they are in the same operand, to their tasks.
fn distribute<'b>(
    inputs: Inputs<'_>,
    operand: &'b mut [f32],
    has_keys: bool,
    parts: &mut [Parts<'b>],
) {
    let Shape {
        heads, size, query, ..
    } = inputs.shape;
    for (row, tokens) in operand
        .chunks_exact_mut(inputs.keys.q_len * query.stride)
        .enumerate()
    {
        let block = inputs.keys.block(row);
        for token in tokens.chunks_exact_mut(query.stride) {
            let (queries, rest) = token.split_at_mut(heads * size);
            let of_block = &mut parts[block * heads..][..heads];
            for (parts, part) in of_block.iter_mut().zip(queries.chunks_exact_mut(size)) {
                parts.queries.push(part);
            }
            if has_keys {
                distribute_token(rest, heads, size, &mut parts[row * heads..][..heads]);
            }
        }
    }
}

/// Gives the keys and values to their tasks.
fn distribute_keys<'b>(inputs: Inputs<'_>, operand: &'b mut [f32], parts: &mut [Parts<'b>]) {
    let Shape {
        heads, size, key, ..
    } = inputs.shape;
    let blocks = operand.chunks_exact_mut(inputs.keys.k_len * key.stride);
    for (tokens, parts) in blocks.zip(parts.chunks_exact_mut(heads)) {
        for token in tokens.chunks_exact_mut(key.stride) {
            distribute_token(token, heads, size, parts);
        }
    }
}

fn distribute_token<'b>(token: &'b mut [f32], heads: usize, size: usize, parts: &mut [Parts<'b>]) {
    let (keys, values) = token.split_at_mut(heads * size);
    let pairs = keys
        .chunks_exact_mut(size)
        .zip(values.chunks_exact_mut(size));
    for (parts, (key, value)) in parts.iter_mut().zip(pairs) {
        parts.keys.push(key);
        parts.values.push(value);
    }
}

impl WithSimd for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            source,
            kept,
            mut parts,
            scratch,
        } = self;
        let Source { inputs, head, .. } = source;
        let (Shape { size, .. }, seen) = (inputs.shape, head.seen);
        if seen.is_empty() {
            return;
        }
        let has_scores = matches!(kept, Kept::Softmax(_));
        let packed = Packed::new(simd, &source, has_scores, scratch);
        let mut of_keys = take(&mut scratch.of_keys);
        let mut of_values = take(&mut scratch.of_values);
        let mut key_sums = Sums::zeros::<S>(&mut of_keys, seen.len(), size);
        let mut value_sums = Sums::zeros::<S>(&mut of_values, seen.len(), size);
        let tiles = head.queries.chunks(TILE_QUERIES);
        for (index, queries) in tiles.enumerate() {
            let first = index * TILE_QUERIES;
            source.slopes(simd, queries, &packed.values, scratch);
            let stride = source.probabilities(simd, queries, kept, first, &packed.keys, scratch);
            let rows = scratch.slopes.chunks_exact_mut(stride);
            for ((query, slopes), weights) in queries
                .iter()
                .zip(rows)
                .zip(scratch.scores.chunks_exact(stride))
            {
                let visible = within(&query.visible, seen);
                differentiate(slopes, weights, visible, inputs.shape.scale);
            }
            source.add_keys(
                simd,
                queries,
                stride,
                scratch,
                &mut key_sums,
                &mut value_sums,
            );
            let stride = multiply(
                simd,
                lines(&scratch.slopes, stride),
                queries.len(),
                seen.len().next_multiple_of(STEP),
                &packed.key_columns,
                &mut scratch.product,
                &mut scratch.narrow,
            );
            let rows = scratch.product.chunks_exact(stride);
            for (out, row) in parts.queries[first..]
                .iter_mut()
                .zip(rows)
                .take(queries.len())
            {
                copy(out, row);
            }
        }
        copy_rows(&key_sums, &mut parts.keys[seen.clone()]);
        copy_rows(&value_sums, &mut parts.values[seen.clone()]);
        (scratch.of_keys, scratch.of_values) = (of_keys, of_values);
        packed.give_back(scratch);
    }
}

/// The keys and values of a task.
struct Packed {
    /// Where scores are computed again.
    keys: Panels,
    values: Panels,
    key_columns: Panels,
}

impl Packed {
    #[inline(always)]
    fn new<S: Simd>(
        simd: S,
        source: &Source<'_, '_>,
        has_scores: bool,
        scratch: &mut Scratch,
    ) -> Self {
        let Source { inputs, head, .. } = source;
        let mut packed = Self {
            keys: take(&mut scratch.keys),
            values: take(&mut scratch.values),
            key_columns: take(&mut scratch.key_columns),
        };
        let (size, count) = (inputs.shape.size, head.seen.len());
        let keys = inputs.keys_of(head, head.seen.start);
        let values = inputs.values_of(head, head.seen.start);
        if has_scores {
            packed
                .keys
                .pack(simd, keys.rows(), 0..count, 0..size, false);
        }
        packed
            .values
            .pack(simd, values.rows(), 0..count, 0..size, false);
        packed
            .key_columns
            .pack(simd, keys.columns(), 0..size, 0..count, false);
        packed
    }

    fn give_back(self, scratch: &mut Scratch) {
        (scratch.keys, scratch.values) = (self.keys, self.values);
        scratch.key_columns = self.key_columns;
    }
}

impl Source<'_, '_> {
    /// Probabilities of these queries, the first of which is query `first` of the task, in
    /// `scratch.scores`; gives their stride.
    #[inline(always)]
    fn probabilities<S: Simd>(
        &self,
        simd: S,
        queries: &[Query],
        kept: &Kept,
        first: usize,
        keys: &Panels,
        scratch: &mut Scratch,
    ) -> usize {
        let Self { inputs, head, .. } = self;
        let softmax = match kept {
            Kept::Softmax(softmax) => &softmax[first..],
            Kept::Probabilities(kept) => {
                let stride = kept.len() / head.queries.len();
                scratch.scores.clear();
                let rows = &kept[first * stride..][..queries.len() * stride];
                scratch.scores.extend_from_slice(rows);
                return stride;
            }
        };
        let stride = scores(simd, *inputs, head.head, queries, keys, scratch);
        let rows = scratch.scores.chunks_exact_mut(stride);
        for ((query, [max, inverse]), row) in queries.iter().zip(softmax).zip(rows) {
            inputs.add_bias(head.head, query.place, head.seen, row);
            let visible = within(&query.visible, head.seen);
            exp_visible(clear_outside(row, &visible), &visible, *max, *inverse);
        }
        stride
    }

    /// Gradients of the attended values of these queries.
    #[inline(always)]
    fn gradients<'s>(&'s self, queries: &[Query], scratch: &'s mut Vec<f32>) -> Operand<'s> {
        let Shape { heads, size, .. } = self.inputs.shape;
        let lanes = Lanes {
            stride: heads * size,
            first: 0,
        };
        let from = (self.gradient, lanes);
        self.inputs.vectors(from, self.head.head, queries, scratch)
    }

    /// Slopes of the probabilities, in `scratch.slopes`.
    #[inline(always)]
    fn slopes<S: Simd>(&self, simd: S, queries: &[Query], values: &Panels, scratch: &mut Scratch) {
        let gradients = self.gradients(queries, &mut scratch.gradients);
        let (sums, narrow) = (&mut scratch.slopes, &mut scratch.narrow);
        let (count, size) = (queries.len(), self.inputs.shape.size);
        multiply(simd, gradients, count, size, values, sums, narrow);
    }

    /// Adds what these queries give to the gradients of keys and values.
    #[inline(always)]
    fn add_keys<S: Simd>(
        &self,
        simd: S,
        queries: &[Query],
        stride: usize,
        scratch: &mut Scratch,
        key_sums: &mut Sums<'_>,
        value_sums: &mut Sums<'_>,
    ) {
        let Shape { size, query, .. } = self.inputs.shape;
        let (count, keys) = (queries.len(), 0..self.head.seen.len());
        let (tile, narrow) = (&mut scratch.tile, &mut scratch.narrow);
        let gradients = columns(self.gradients(queries, &mut scratch.gradients));
        tile.pack(simd, gradients, 0..size, 0..count, false);
        let weights = columns(lines(&scratch.scores, stride));
        let of_keys = keys.clone();
        add_product(simd, weights, of_keys, 0..count, tile, value_sums, narrow);
        let from = (self.inputs.q, query);
        let inputs = self.inputs;
        let vectors = inputs.vectors(from, self.head.head, queries, &mut scratch.queries);
        tile.pack(simd, columns(vectors), 0..size, 0..count, false);
        let slopes = columns(lines(&scratch.slopes, stride));
        add_product(simd, slopes, keys, 0..count, tile, key_sums, narrow);
    }
}

/// Makes the slopes of the products of query and key of those of the probabilities.
#[inline(always)]
fn differentiate(slopes: &mut [f32], weights: &[f32], visible: Range<usize>, factor: f32) {
    let chunks = clear_outside(slopes, &visible);
    mask(chunks, &visible);
    let first = visible.start / LANES * LANES;
    let (weights, _) = weights[first..].as_chunks::<LANES>();
    let weights = &weights[..chunks.len()];
    let mean = dot(chunks.as_flattened(), weights.as_flattened());
    for (slopes, weights) in chunks.iter_mut().zip(weights) {
        // By value: in memory the compiler must fear that they overlap.
        let (mut values, weights) = (*slopes, *weights);
        for (value, weight) in values.iter_mut().zip(weights) {
            *value = (*value - mean) * weight * factor;
        }
        *slopes = values;
    }
}

#[inline(always)]
fn copy_rows(sums: &Sums<'_>, to: &mut [&mut [f32]]) {
    for (to, row) in to.iter_mut().zip(sums.values.chunks_exact(sums.stride)) {
        copy(to, row);
    }
}
