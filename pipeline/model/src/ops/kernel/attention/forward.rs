//! The attended values.

use pulp::{Arch, Simd, WithSimd};
use std::mem::take;

use super::*;
use crate::ops::kernel::math::{copy, softmax};

/// Most queries of a task that are taken one by one.
const FEW: usize = 4;

/// A task of the forward pass.
pub(super) struct Forward<'a, 'b> {
    pub inputs: Inputs<'a>,
    pub head: Head<'b>,
    /// Where the attended values of each query go.
    pub out: Vec<&'b mut [f32]>,
    /// Whether what the backward pass needs is kept.
    pub keep: bool,
    pub scratch: &'b mut Scratch,
}

/// Writes the attended values to `out` `[rows * q_len, heads * size]`. With `keep` it gives what
/// the backward pass needs: for each block and head that of its queries.
pub(in crate::ops) fn forward(inputs: Inputs<'_>, keep: bool, out: &mut [f32]) -> Vec<Kept> {
    let Shape { heads, size, .. } = inputs.shape;
    let blocks = inputs.blocks();
    let mut tasks: Vec<(Head<'_>, Vec<&mut [f32]>)> = Vec::with_capacity(blocks.len() * heads);
    for block in 0..blocks.len() {
        for head in 0..heads {
            let head = Head::new(&blocks, block, head);
            tasks.push((head, Vec::with_capacity(head.queries.len())));
        }
    }
    for (row, out) in out
        .chunks_exact_mut(inputs.keys.q_len * heads * size)
        .enumerate()
    {
        let tasks = &mut tasks[inputs.keys.block(row) * heads..][..heads];
        for out in out.chunks_exact_mut(heads * size) {
            for ((_, parts), out) in tasks.iter_mut().zip(out.chunks_exact_mut(size)) {
                parts.push(out);
            }
        }
    }
    for_each(tasks, inputs.tasks_together(), |scratch, (head, out)| {
        Arch::new().dispatch(Forward {
            inputs,
            head,
            out,
            keep,
            scratch,
        })
    })
}

impl WithSimd for Forward<'_, '_> {
    type Output = Kept;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Kept {
        if self.out.len() <= FEW && !self.keep {
            self.attend_few(simd);
            return Kept::Softmax(Vec::new());
        }
        self.attend(simd)
    }
}

impl Forward<'_, '_> {
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S) -> Kept {
        let Self { inputs, head, .. } = *self;
        let (size, seen) = (inputs.shape.size, head.seen);
        let scratch = &mut *self.scratch;
        let (mut keys, mut values) = (take(&mut scratch.keys), take(&mut scratch.values));
        let operand = inputs.keys_of(&head, seen.start).rows();
        keys.pack(simd, operand, 0..seen.len(), 0..size, false);
        let operand = inputs.values_of(&head, seen.start).columns();
        values.pack(simd, operand, 0..size, 0..seen.len(), false);
        let few = self.out.len() * seen.len() <= FEW_PROBABILITIES;
        let mut kept = if few {
            Kept::Probabilities(Vec::new())
        } else {
            Kept::Softmax(Vec::new())
        };
        let tiles = head.queries.chunks(TILE_QUERIES);
        for (queries, out) in tiles.zip(self.out.chunks_mut(TILE_QUERIES)) {
            let stride = scores(simd, inputs, head.head, queries, &keys, scratch);
            for (query, row) in queries.iter().zip(scratch.scores.chunks_exact_mut(stride)) {
                inputs.add_bias(head.head, query.place, seen, row);
                let softmax = probabilities(row, within(&query.visible, seen));
                if let (Kept::Softmax(kept), true) = (&mut kept, self.keep) {
                    kept.push(softmax);
                }
            }
            if let (Kept::Probabilities(kept), true) = (&mut kept, self.keep) {
                kept.extend_from_slice(&scratch.scores[..queries.len() * stride]);
            }
            let stride = multiply(
                simd,
                lines(&scratch.scores, stride),
                queries.len(),
                seen.len().next_multiple_of(STEP),
                &values,
                &mut scratch.product,
                &mut scratch.narrow,
            );
            for (out, row) in out.iter_mut().zip(scratch.product.chunks_exact(stride)) {
                copy(out, row);
            }
        }
        (scratch.keys, scratch.values) = (keys, values);
        kept
    }
}

/// Scores of these queries, before the bias, in `scratch.scores`; gives their stride.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    simd: S,
    inputs: Inputs<'_>,
    head: usize,
    queries: &[Query],
    keys: &Panels,
    scratch: &mut Scratch,
) -> usize {
    let Shape {
        size, query, scale, ..
    } = inputs.shape;
    let from = (inputs.q, query);
    inputs.gather(from, head, queries, scale, &mut scratch.queries);
    let line = size.next_multiple_of(STEP);
    multiply(
        simd,
        lines(&scratch.queries, line),
        queries.len(),
        line,
        keys,
        &mut scratch.scores,
        &mut scratch.narrow,
    )
}

/// A run of keys, counted from the first one of `seen`.
#[inline(always)]
pub(super) fn within(visible: &Range<usize>, seen: &Range<usize>) -> Range<usize> {
    if visible.is_empty() {
        return 0..0;
    }
    visible.start - seen.start..visible.end - seen.start
}

/// Softmax of the visible scores in place, zero elsewhere.
#[inline(always)]
fn probabilities(row: &mut [f32], visible: Range<usize>) -> Softmax {
    if visible.is_empty() {
        row.fill(0.0);
        return [0.0; 2];
    }
    softmax(row, visible)
}
