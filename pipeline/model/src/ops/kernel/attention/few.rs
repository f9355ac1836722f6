//! Attention of a few queries over many keys, as in decoding: the keys and values are read once,
//! where they lie.

use pulp::Simd;

use super::forward::Forward;
use super::*;
use crate::ops::kernel::gemm::dots;
use crate::ops::kernel::math::{LANES, softmax};

/// Keys that are multiplied with a query at a time.
const KEYS: usize = 6;

impl Forward<'_, '_> {
    /// The attended values of each query.
    #[inline(always)]
    pub fn attend_few<S: Simd>(&mut self, simd: S) {
        let Self { inputs, head, .. } = *self;
        let Shape {
            size,
            query: lanes,
            scale,
            ..
        } = inputs.shape;
        for (query, out) in head.queries.iter().zip(&mut self.out) {
            let visible = &query.visible;
            if visible.is_empty() {
                out.fill(0.0);
                continue;
            }
            let scratch = &mut *self.scratch;
            let (from, one) = ((inputs.q, lanes), std::slice::from_ref(query));
            inputs.gather(from, head.head, one, scale, &mut scratch.queries);
            scratch.scores.clear();
            scratch
                .scores
                .resize(visible.len().next_multiple_of(LANES), 0.0);
            let (left, scores) = (
                &scratch.queries[..size],
                &mut scratch.scores[..visible.len()],
            );
            score(simd, left, inputs.keys_of(&head, visible.start), scores);
            inputs.add_bias(head.head, query.place, visible, scores);
            softmax(&mut scratch.scores, 0..visible.len());
            let weights = &scratch.scores[..visible.len()];
            let values = inputs.values_of(&head, visible.start);
            let rest = blend::<S, 8>(simd, weights, values, 0, out);
            let rest = blend::<S, 2>(simd, weights, values, rest, out);
            let rest = blend::<S, 1>(simd, weights, values, rest, out);
            for (column, out) in out.iter_mut().enumerate().skip(rest) {
                let weights = weights.iter().enumerate();
                *out = weights.fold(0.0, |sum, (key, weight)| {
                    values.row(key)[column].mul_add(*weight, sum)
                });
            }
        }
    }
}

/// Dot products of `left` with each key.
#[inline(always)]
fn score<S: Simd>(simd: S, left: &[f32], keys: Part<'_>, scores: &mut [f32]) {
    let last = scores.len() - 1;
    for (index, scores) in scores.chunks_mut(KEYS).enumerate() {
        let mut right = [left; KEYS];
        for (i, right) in right.iter_mut().enumerate() {
            // Past the last key the last one is repeated.
            *right = keys.row((index * KEYS + i).min(last));
        }
        let [dots] = dots(simd, [left], right);
        scores.copy_from_slice(&dots[..scores.len()]);
    }
}

/// Writes the weighted sums of the values to the columns from `first` on, `V` vectors at a time;
/// gives the first column that is left.
#[inline(always)]
fn blend<S: Simd, const V: usize>(
    simd: S,
    weights: &[f32],
    values: Part<'_>,
    mut first: usize,
    out: &mut [f32],
) -> usize {
    let width = V * S::F32_LANES;
    while out.len() - first >= width {
        let mut sums = [simd.splat_f32s(0.0); V];
        for (key, weight) in weights.iter().enumerate() {
            let weight = simd.splat_f32s(*weight);
            let (row, _) = S::as_simd_f32s(&values.row(key)[first..first + width]);
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add_f32s(weight, *value, *sum);
            }
        }
        let (to, _) = S::as_mut_simd_f32s(&mut out[first..first + width]);
        to.copy_from_slice(&sums);
        first += width;
    }
    first
}
