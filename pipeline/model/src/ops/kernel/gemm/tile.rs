//! The arithmetic of a product on packed panels.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

use super::operand::Operand;
use crate::ops::kernel::math::LANES;

/// Steps of the inner dimension that are unrolled.
pub(in crate::ops::kernel) const STEP: usize = 8;

/// Panels that are packed together where a step of them is contiguous.
const GROUP: usize = 8;

/// The wide side: vectors interleaved as `[panel][step][lane]`. A panel has two vectors of lanes;
/// the last has one if that is enough. Steps behind the last are zero; lanes behind the last
/// vector have any values.
#[derive(Default)]
pub(in crate::ops::kernel) struct Panels {
    values: Vec<f32>,
    /// Lanes of a full panel.
    lanes: usize,
    columns: usize,
    steps: usize,
}

/// The narrow side.
pub(super) enum Narrow<'a> {
    /// Contiguous vectors, `stride` apart.
    Lines {
        values: &'a [f32],
        stride: usize,
        count: usize,
    },
    /// The vectors of each tile interleaved: `[tile][step][vector]`.
    Blocks { values: &'a [f32], count: usize },
}

/// The sums of a block of narrow vectors: `[vector][column]`, padded to whole tiles and [`LANES`].
pub(in crate::ops::kernel) struct Sums<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

impl<'a> Sums<'a> {
    /// Zeros for this number of vectors, in `values`.
    #[inline(always)]
    pub fn zeros<S: Simd>(values: &'a mut Vec<f32>, vectors: usize, columns: usize) -> Self {
        let sums = Self::any::<S>(values, vectors, columns);
        sums.values[..vectors * sums.stride].fill(0.0);
        sums
    }

    /// Any numbers for this number of vectors, in `values`.
    #[inline(always)]
    pub fn any<S: Simd>(values: &'a mut Vec<f32>, vectors: usize, columns: usize) -> Self {
        // Vectors a power of two apart would share a few lines of the cache.
        let stride = columns.next_multiple_of(LANES.max(S::F32_LANES)) + 2 * S::F32_LANES;
        let tile = if S::REGISTER_COUNT >= 32 { 16 } else { 12 };
        values.resize(vectors.next_multiple_of(tile) * stride, 0.0);
        Self { values, stride }
    }
}

impl Panels {
    /// Packs these vectors in place of the earlier ones.
    #[inline(always)]
    pub fn pack<S: Simd>(
        &mut self,
        simd: S,
        wide: Operand<'_>,
        columns: Range<usize>,
        steps: Range<usize>,
        parallel: bool,
    ) {
        let lanes = 2 * S::F32_LANES;
        let padded = columns.len().next_multiple_of(S::F32_LANES);
        let depth = steps.len().next_multiple_of(STEP);
        self.values.resize(padded * depth, 0.0);
        if depth > 0 {
            let group = if wide.along { lanes } else { GROUP * lanes };
            let first = |index: usize| columns.start + index * group;
            if parallel {
                let groups = self.values.par_chunks_mut(depth * group);
                groups.enumerate().for_each(|(index, to)| {
                    simd.vectorize(Pack {
                        wide,
                        vectors: first(index)..columns.end.min(first(index) + group),
                        steps: steps.clone(),
                        sizes: [lanes, depth],
                        to,
                    });
                });
            } else {
                // No closure, which would be compiled without the wide instructions.
                for (index, to) in self.values.chunks_mut(depth * group).enumerate() {
                    let vectors = first(index)..columns.end.min(first(index) + group);
                    wide.interleave(vectors, steps.clone(), [lanes, depth], to);
                }
            }
        }
        self.lanes = lanes;
        self.columns = padded;
        self.steps = depth;
    }

    /// Number of columns, with those of zeros.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

struct Pack<'a, 'b> {
    wide: Operand<'a>,
    vectors: Range<usize>,
    steps: Range<usize>,
    sizes: [usize; 2],
    to: &'b mut [f32],
}

impl WithSimd for Pack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.wide
            .interleave(self.vectors, self.steps, self.sizes, self.to);
    }
}

/// Adds the products of the narrow vectors with all panels over `steps` to `sums`. `R` narrow
/// vectors are a tile; `D` of them where a panel has one vector of lanes.
#[inline(always)]
pub(super) fn add_tiles<S: Simd, const R: usize, const D: usize>(
    simd: S,
    narrow: &Narrow<'_>,
    panels: &Panels,
    steps: Range<usize>,
    sums: &mut Sums<'_>,
) {
    if panels.steps == 0 {
        return;
    }
    for (index, panel) in panels
        .values
        .chunks(panels.steps * panels.lanes)
        .enumerate()
    {
        let lanes = panel.len() / panels.steps;
        let panel = &panel[steps.start * lanes..steps.end * lanes];
        let column = index * panels.lanes;
        if lanes == panels.lanes {
            add_column::<S, R, R, 2>(simd, narrow, panel, column, sums);
        } else {
            add_column::<S, R, D, 1>(simd, narrow, panel, column, sums);
        }
    }
}

/// One panel with all narrow vectors. Blocks have `R` vectors, tiles of lines `D`.
#[inline(always)]
fn add_column<S: Simd, const R: usize, const D: usize, const V: usize>(
    simd: S,
    narrow: &Narrow<'_>,
    panel: &[f32],
    column: usize,
    sums: &mut Sums<'_>,
) {
    let (vectors, _) = S::as_simd_f32s(panel);
    let (panel, _) = vectors.as_chunks::<V>().0.as_chunks::<STEP>();
    match *narrow {
        Narrow::Lines {
            values,
            stride,
            count,
        } => {
            for first in (0..count).step_by(D) {
                let mut lines: [&[[f32; STEP]]; D] = [&[]; D];
                for (i, line) in lines.iter_mut().enumerate() {
                    // A tile past the last vector repeats it.
                    let at = (first + i).min(count - 1) * stride;
                    *line = values[at..][..panel.len() * STEP].as_chunks().0;
                }
                let out = &mut sums.values[first * sums.stride + column..];
                add_lines(simd, lines, panel, out, sums.stride);
            }
        }
        Narrow::Blocks { values, count } => {
            let blocks = values.chunks_exact(panel.len() * STEP * R);
            for (first, block) in (0..count).step_by(R).zip(blocks) {
                let out = &mut sums.values[first * sums.stride + column..];
                add_block(simd, block.as_chunks::<R>().0, panel, out, sums.stride);
            }
        }
    }
}

/// A tile whose narrow vectors are contiguous.
#[inline(always)]
fn add_lines<S: Simd, const R: usize, const V: usize>(
    simd: S,
    lines: [&[[f32; STEP]]; R],
    panel: &[[[S::f32s; V]; STEP]],
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = load::<S, R, V>(simd, out, stride);
    for (c, steps) in panel.iter().enumerate() {
        let mut values = [&[0.0; STEP]; R];
        for (values, line) in values.iter_mut().zip(&lines) {
            *values = &line[c];
        }
        for (s, wide) in steps.iter().enumerate() {
            for (sums, values) in sums.iter_mut().zip(&values) {
                let a = simd.splat_f32s(values[s]);
                for (sum, b) in sums.iter_mut().zip(wide) {
                    *sum = simd.mul_add_f32s(a, *b, *sum);
                }
            }
        }
    }
    store::<S, R, V>(&sums, out, stride);
}

/// A tile whose narrow vectors are interleaved.
#[inline(always)]
fn add_block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    block: &[[f32; R]],
    panel: &[[[S::f32s; V]; STEP]],
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = load::<S, R, V>(simd, out, stride);
    for (wide, values) in panel.as_flattened().iter().zip(block) {
        for (sums, value) in sums.iter_mut().zip(values) {
            let a = simd.splat_f32s(*value);
            for (sum, b) in sums.iter_mut().zip(wide) {
                *sum = simd.mul_add_f32s(a, *b, *sum);
            }
        }
    }
    store::<S, R, V>(&sums, out, stride);
}

#[inline(always)]
fn load<S: Simd, const R: usize, const V: usize>(
    simd: S,
    from: &[f32],
    stride: usize,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        let (vectors, _) = S::as_simd_f32s(&from[r * stride..]);
        sums.copy_from_slice(&vectors[..V]);
    }
    sums
}

#[inline(always)]
fn store<S: Simd, const R: usize, const V: usize>(
    sums: &[[S::f32s; V]; R],
    to: &mut [f32],
    stride: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        let (vectors, _) = S::as_mut_simd_f32s(&mut to[r * stride..]);
        vectors[..V].copy_from_slice(sums);
    }
}
