//! Products in tasks of a block of narrow vectors and a run of wide ones.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

use super::Start;
use super::operand::{Matrix, Operand};
use super::tile::{Panels, STEP, Sums, add_tiles};
use crate::ops::kernel::math::copy;

/// Products of fewer multiplications are not worth a second thread.
const PARALLEL_FROM: usize = 1 << 21;

/// Wide vectors that are packed at a time.
const WIDE: usize = 512;

/// Steps of the inner dimension in a block: a panel of them stays in the first cache.
const DEPTH: usize = 256;

/// Steps of the inner dimension that are packed at a time.
const PACKED: usize = 8 * DEPTH;

/// Most narrow vectors in a task: their sums stay in the second cache.
const TASK: usize = 96;

/// Narrow vectors in a tile where there are 16 registers, and where the panel has one vector.
const TILE: usize = 6;
const TALL: usize = 12;

/// The same where there are 32 registers.
const LARGE_TILE: usize = 8;
const LARGE_TALL: usize = 16;

/// A multiple of the sizes of all tiles.
const UNIT: usize = 48;

thread_local! {
    /// Memory that products use one after the other.
    static PANELS: Cell<Panels> = Cell::default();
    static BUFFERS: Cell<Buffers> = Cell::default();
}

/// Memory of a task.
#[derive(Default)]
struct Buffers {
    sums: Vec<f32>,
    narrow: Vec<f32>,
}

/// A product and its output.
pub(super) struct Whole<'a> {
    product: Product<'a>,
    out: &'a mut [f32],
}

#[derive(Clone, Copy)]
struct Product<'a> {
    /// Number of narrow vectors.
    rows: usize,
    /// Number of wide vectors.
    columns: usize,
    k: usize,
    narrow: Operand<'a>,
    wide: Operand<'a>,
    start: Start<'a>,
    /// Whether the narrow vectors are columns of the output.
    across: bool,
    /// Length of a row of the output.
    stride: usize,
}

impl<'a> Whole<'a> {
    pub fn new(
        [m, n, k]: [usize; 3],
        left: Matrix<'a>,
        right: Matrix<'a>,
        start: Start<'a>,
        out: &'a mut [f32],
    ) -> Self {
        // A side costs its size to pack; the left side as the wide one costs a transposed output.
        let across = right.transposed && !left.transposed && m * (n + k) < n * k;
        let (rows, columns, narrow, wide) = if across {
            (n, m, right.columns(), left.rows())
        } else {
            (m, n, left.rows(), right.columns())
        };
        let product = Product {
            rows,
            columns,
            k,
            narrow,
            wide,
            start,
            across,
            stride: n,
        };
        Self { product, out }
    }
}

impl WithSimd for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, out } = self;
        let Product {
            rows, columns, k, ..
        } = product;
        let threads = rayon::current_num_threads();
        let parallel = threads > 1 && rows * columns * k >= PARALLEL_FROM;
        let tasks = if parallel { 2 * threads } else { 1 };
        let block = rows.div_ceil(tasks).min(TASK).next_multiple_of(UNIT);
        let runs = columns.div_ceil(WIDE);
        let width = columns.div_ceil(runs).next_multiple_of(2 * S::F32_LANES);
        let mut panels = PANELS.take();
        for first in (0..columns).step_by(width) {
            let run = first..columns.min(first + width);
            for depth in (0..k.max(1)).step_by(PACKED) {
                let steps = depth..k.min(depth + PACKED);
                panels.pack(simd, product.wide, run.clone(), steps.clone(), parallel);
                let panels = &panels;
                let task = |(index, target): (usize, Target<'_>)| {
                    let at = index * block;
                    simd.vectorize(Task {
                        product,
                        panels,
                        rows: at..rows.min(at + block),
                        run: run.clone(),
                        steps: steps.clone(),
                        target,
                    });
                };
                let targets = product.targets(block, &run, out).into_iter();
                if parallel {
                    let targets: Vec<_> = targets.collect();
                    let each = targets.into_par_iter().enumerate().with_max_len(1);
                    each.for_each(task);
                } else {
                    targets.enumerate().for_each(task);
                }
            }
        }
        PANELS.set(panels);
    }
}

/// Where the values of a task go.
enum Target<'a> {
    /// Rows of the output.
    Rows(&'a mut [f32]),
    /// For each wide vector, a part of a row of the output.
    Parts(Vec<&'a mut [f32]>),
}

impl Product<'_> {
    fn targets<'a>(&self, block: usize, run: &Range<usize>, out: &'a mut [f32]) -> Vec<Target<'a>> {
        let stride = self.stride;
        if !self.across {
            return out.chunks_mut(block * stride).map(Target::Rows).collect();
        }
        let tasks = self.rows.div_ceil(block);
        let mut parts: Vec<Vec<_>> = Vec::new();
        parts.resize_with(tasks, || Vec::with_capacity(run.len()));
        for row in out[run.start * stride..run.end * stride].chunks_exact_mut(stride) {
            for (parts, part) in parts.iter_mut().zip(row.chunks_mut(block)) {
                parts.push(part);
            }
        }
        parts.into_iter().map(Target::Parts).collect()
    }
}

/// A block of narrow vectors with a run of wide ones.
struct Task<'a, 'b> {
    product: Product<'a>,
    panels: &'b Panels,
    rows: Range<usize>,
    run: Range<usize>,
    steps: Range<usize>,
    target: Target<'b>,
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut buffers = BUFFERS.take();
        let (count, columns) = (self.rows.len(), self.panels.columns());
        let mut sums = Sums::any::<S>(&mut buffers.sums, count, columns);
        self.start(sums.values, sums.stride);
        let narrow = self.product.narrow;
        let (rows, steps) = (self.rows.clone(), self.steps.clone());
        let scratch = &mut buffers.narrow;
        add_product(simd, narrow, rows, steps, self.panels, &mut sums, scratch);
        self.finish(sums.values, sums.stride);
        BUFFERS.set(buffers);
    }
}

/// Adds the products of these narrow vectors with all panels to `sums`. The first of `steps` is
/// the first step in the panels.
#[inline(always)]
pub(in crate::ops::kernel) fn add_product<S: Simd>(
    simd: S,
    narrow: Operand<'_>,
    vectors: Range<usize>,
    steps: Range<usize>,
    panels: &Panels,
    sums: &mut Sums<'_>,
    scratch: &mut Vec<f32>,
) {
    // A function of its own, which the compiler need not copy to every caller.
    simd.vectorize(AddProduct {
        narrow,
        vectors,
        steps,
        panels,
        sums: Sums {
            values: sums.values,
            stride: sums.stride,
        },
        scratch,
    });
}

struct AddProduct<'a, 'b> {
    narrow: Operand<'a>,
    vectors: Range<usize>,
    steps: Range<usize>,
    panels: &'b Panels,
    sums: Sums<'b>,
    scratch: &'b mut Vec<f32>,
}

impl WithSimd for AddProduct<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for depth in self.steps.clone().step_by(DEPTH) {
            let slice = depth..self.steps.end.min(depth + DEPTH);
            let first = depth - self.steps.start;
            let packed = first..first + slice.len().next_multiple_of(STEP);
            let vectors = self.vectors.clone();
            if S::REGISTER_COUNT >= 32 {
                let narrow = self
                    .narrow
                    .narrow::<LARGE_TILE>(vectors, slice, self.scratch);
                let (panels, sums) = (self.panels, &mut self.sums);
                add_tiles::<S, LARGE_TILE, LARGE_TALL>(simd, &narrow, panels, packed, sums);
            } else {
                let narrow = self.narrow.narrow::<TILE>(vectors, slice, self.scratch);
                let (panels, sums) = (self.panels, &mut self.sums);
                add_tiles::<S, TILE, TALL>(simd, &narrow, panels, packed, sums);
            }
        }
    }
}

impl Task<'_, '_> {
    /// The first sums: the bias, or what an earlier part of the inner dimension left.
    #[inline(always)]
    fn start(&self, sums: &mut [f32], stride: usize) {
        let run = &self.run;
        let bias = match self.product.start {
            Start::Bias(bias) => bias,
            Start::Zero if self.steps.start == 0 => {
                return sums[..self.rows.len() * stride].fill(0.0);
            }
            Start::Zero => &[],
        };
        let rows = sums.chunks_exact_mut(stride).take(self.rows.len());
        for (r, sums) in rows.enumerate() {
            match &self.target {
                Target::Rows(out) if self.steps.start > 0 => {
                    let row = &out[r * self.product.stride..];
                    copy(&mut sums[..run.len()], &row[run.clone()]);
                }
                Target::Parts(parts) if self.steps.start > 0 => {
                    for (sum, part) in sums.iter_mut().zip(parts) {
                        *sum = part[r];
                    }
                }
                Target::Rows(_) => copy(&mut sums[..run.len()], &bias[run.clone()]),
                Target::Parts(_) => sums.fill(bias[self.rows.start + r]),
            }
        }
    }

    #[inline(always)]
    fn finish(&mut self, sums: &[f32], stride: usize) {
        let run = &self.run;
        match &mut self.target {
            Target::Rows(out) => {
                let rows = out.chunks_exact_mut(self.product.stride);
                for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
                    copy(&mut row[run.clone()], sums);
                }
            }
            Target::Parts(parts) => {
                for (c, part) in parts.iter_mut().enumerate() {
                    for (value, sums) in part.iter_mut().zip(sums[c..].chunks(stride)) {
                        *value = sums[0];
                    }
                }
            }
        }
    }
}
