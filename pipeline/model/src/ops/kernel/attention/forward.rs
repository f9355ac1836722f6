//! The attended values.

use pulp::{Arch, Simd, WithSimd};

use super::*;
use crate::ops::kernel::math::softmax;

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
pub(in crate::ops) fn forward(
    inputs: Inputs<'_>,
    keep: bool,
    out: &mut [f32],
) -> Vec<Vec<Softmax>> {
    let Shape { heads, size, .. } = inputs.shape;
    let rows = inputs.rows_of_blocks();
    let mut tasks: Vec<(Head<'_>, Vec<&mut [f32]>)> = Vec::with_capacity(rows.len() * heads);
    for (block, rows) in rows.iter().enumerate() {
        for head in 0..heads {
            let out = Vec::with_capacity(rows.len() * inputs.keys.q_len);
            tasks.push((Head { rows, block, head }, out));
        }
    }
    for (index, out) in out.chunks_exact_mut(size).enumerate() {
        let block = inputs.keys.block(index / heads / inputs.keys.q_len);
        tasks[block * heads + index % heads].1.push(out);
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
    type Output = Vec<Softmax>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Vec<Softmax> {
        if self.out.len() <= FEW && !self.keep {
            self.attend_few(simd);
            return Vec::new();
        }
        self.attend(simd)
    }
}

impl Forward<'_, '_> {
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S) -> Vec<Softmax> {
        let Self { inputs, head, .. } = *self;
        let size = inputs.shape.size;
        let seen = head.seen(inputs.keys);
        let mut keys = Panels::new::<S>();
        let operand = inputs.keys_of(&head, seen.start).rows();
        keys.pack::<S>(operand, 0..seen.len(), 0..size, false);
        let mut values = Panels::new::<S>();
        let operand = inputs.values_of(&head, seen.start).columns();
        values.pack::<S>(operand, 0..size, 0..seen.len(), false);
        let mut kept = Vec::new();
        for first in (0..self.out.len()).step_by(TILE_QUERIES) {
            let queries = first..self.out.len().min(first + TILE_QUERIES);
            let scratch = &mut *self.scratch;
            let stride = scores(simd, inputs, head, queries.clone(), &keys, scratch);
            for (index, row) in queries.clone().zip(scratch.scores.chunks_exact_mut(stride)) {
                let (at, query) = head.query(inputs.keys, index);
                inputs.add_bias(&head, query, &seen, row);
                let visible = inputs.keys.visible(at, query);
                let softmax = probabilities(row, within(visible, &seen));
                if self.keep {
                    kept.push(softmax);
                }
            }
            let stride = multiply(
                simd,
                (&scratch.scores, stride),
                queries.len(),
                seen.len().next_multiple_of(STEP),
                &values,
                &mut scratch.product,
                &mut scratch.narrow,
            );
            for (out, row) in self.out[queries]
                .iter_mut()
                .zip(scratch.product.chunks_exact(stride))
            {
                out.copy_from_slice(&row[..size]);
            }
        }
        kept
    }
}

/// Scores of these queries, before the bias, in `scratch.scores`; gives their stride.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    simd: S,
    inputs: Inputs<'_>,
    head: Head<'_>,
    queries: Range<usize>,
    keys: &Panels,
    scratch: &mut Scratch,
) -> usize {
    let Shape { size, query, .. } = inputs.shape;
    let count = queries.len();
    let factor = (size as f32).powf(-0.5);
    inputs.gather(
        inputs.q,
        query,
        &head,
        queries,
        factor,
        &mut scratch.queries,
    );
    let line = size.next_multiple_of(STEP);
    multiply(
        simd,
        (&scratch.queries, line),
        count,
        line,
        keys,
        &mut scratch.scores,
        &mut scratch.narrow,
    )
}

/// A run of keys, counted from the first one of `seen`.
#[inline(always)]
pub(super) fn within(visible: Range<usize>, seen: &Range<usize>) -> Range<usize> {
    if visible.is_empty() {
        return 0..0;
    }
    visible.start - seen.start..visible.end - seen.start
}

/// Softmax of the visible scores in place, zero elsewhere.
#[inline(always)]
fn probabilities(row: &mut [f32], visible: Range<usize>) -> Softmax {
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
    softmax(&mut row[visible])
}
