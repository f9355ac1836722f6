//! Products of a few rows with a stored `[outputs, inputs]` matrix: the matrix is read once,
//! nothing is packed.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

use super::Start;
use super::operand::{Matrix, Values};

/// Fewer outputs than this are left to the general product.
pub(super) const FROM: usize = 16;

/// Matrices of fewer values are not worth a second thread.
const PARALLEL_FROM: usize = 1 << 18;

/// Values of a narrow matrix that are widened at a time.
const WIDENED: usize = 4096;

/// Contiguous rows of the left side.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

/// `out = start + rows * matrix^T`, `k` values a row.
pub(super) fn multiply(
    rows: Rows<'_>,
    matrix: Matrix<'_>,
    k: usize,
    start: Start<'_>,
    out: &mut [f32],
) {
    let n = out.len() / rows.count;
    let threads = rayon::current_num_threads();
    let parallel = threads > 1 && n * k >= PARALLEL_FROM;
    let block = if parallel {
        n.div_ceil(4 * threads).next_multiple_of(24)
    } else {
        n
    };
    let tasks = n.div_ceil(block);
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    parts.resize_with(tasks, || Vec::with_capacity(rows.count));
    for row in out.chunks_exact_mut(n) {
        for (parts, part) in parts.iter_mut().zip(row.chunks_mut(block)) {
            parts.push(part);
        }
    }
    let task = |(index, parts): (usize, Vec<&mut [f32]>)| {
        let first = index * block;
        Arch::new().dispatch(Part {
            rows,
            matrix,
            k,
            start,
            outputs: first..n.min(first + block),
            parts,
        });
    };
    if parallel {
        let each = parts.into_par_iter().enumerate().with_max_len(1);
        each.for_each(task);
    } else {
        parts.into_iter().enumerate().for_each(task);
    }
}

/// Some outputs of all rows.
struct Part<'a, 'b> {
    rows: Rows<'a>,
    matrix: Matrix<'a>,
    k: usize,
    start: Start<'a>,
    outputs: Range<usize>,
    /// For each row, its outputs.
    parts: Vec<&'b mut [f32]>,
}

impl WithSimd for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let k = self.k;
        let each = match self.matrix.values {
            Values::F32(_) => self.outputs.len(),
            _ => (WIDENED / k.max(1)).max(1).next_multiple_of(12),
        };
        let mut widened = Vec::new();
        let mut first = self.outputs.start;
        while first < self.outputs.end {
            let count = each.min(self.outputs.end - first);
            let (values, stride) = match self.matrix.values {
                Values::F32(values) => (&values[first * self.matrix.stride..], self.matrix.stride),
                values => {
                    widened.resize(each * k, 0.0);
                    for (i, line) in widened.chunks_exact_mut(k).take(count).enumerate() {
                        values.read((first + i) * self.matrix.stride, line);
                    }
                    (&widened[..], k)
                }
            };
            let lines = Lines {
                values,
                stride,
                count,
                k,
            };
            self.outputs_of(simd, lines, first);
            first += count;
        }
    }
}

/// Rows of the matrix.
#[derive(Clone, Copy)]
struct Lines<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
    k: usize,
}

impl Part<'_, '_> {
    /// All rows with these lines of the matrix, whose outputs are from `first` on.
    #[inline(always)]
    fn outputs_of<S: Simd>(&mut self, simd: S, lines: Lines<'_>, first: usize) {
        // The lines of a pass stay in the first cache for the next rows.
        for line in (0..lines.count).step_by(12) {
            let pass = line..lines.count.min(line + 12);
            let mut row = 0;
            while row < self.rows.count {
                row += match self.rows.count - row {
                    1 => self.pass::<S, 1, 6>(simd, lines, pass.clone(), first, row),
                    2 => self.pass::<S, 2, 4>(simd, lines, pass.clone(), first, row),
                    3 => self.pass::<S, 3, 3>(simd, lines, pass.clone(), first, row),
                    _ => self.pass::<S, 4, 3>(simd, lines, pass.clone(), first, row),
                };
            }
        }
    }

    /// `M` rows with lines of the matrix, `O` at a time; gives `M`.
    #[inline(always)]
    fn pass<S: Simd, const M: usize, const O: usize>(
        &mut self,
        simd: S,
        lines: Lines<'_>,
        pass: Range<usize>,
        first: usize,
        row: usize,
    ) -> usize {
        let mut left: [&[f32]; M] = [&[]; M];
        for (i, left) in left.iter_mut().enumerate() {
            *left = &self.rows.values[(row + i) * self.rows.stride..][..lines.k];
        }
        for line in pass.clone().step_by(O) {
            let mut right: [&[f32]; O] = [&[]; O];
            for (i, right) in right.iter_mut().enumerate() {
                // Past the last line the last one is repeated.
                let at = (line + i).min(pass.end - 1) * lines.stride;
                *right = &lines.values[at..][..lines.k];
            }
            let sums = dots(simd, left, right);
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate().take(pass.end - line) {
                    let output = first + line + j;
                    let start = match self.start {
                        Start::Zero => 0.0,
                        Start::Bias(bias) => bias[output],
                    };
                    self.parts[row + i][output - self.outputs.start] = start + sum;
                }
            }
        }
        M
    }
}

/// Vectors that are read at a time.
const UNROLLED: usize = 4;

/// Dot products of each of `M` with each of `O` vectors of one length.
#[inline(always)]
pub(in crate::ops::kernel) fn dots<S: Simd, const M: usize, const O: usize>(
    simd: S,
    left: [&[f32]; M],
    right: [&[f32]; O],
) -> [[f32; O]; M] {
    let mut sums = [[simd.splat_f32s(0.0); O]; M];
    let run = UNROLLED * S::F32_LANES;
    let len = right[0].len();
    let whole = len / run * run;
    for first in (0..whole).step_by(run) {
        let (a, b) = (runs::<S, M>(&left, first), runs::<S, O>(&right, first));
        for step in 0..UNROLLED {
            for (sums, a) in sums.iter_mut().zip(&a) {
                for (sum, b) in sums.iter_mut().zip(&b) {
                    *sum = simd.mul_add_f32s(a[step], b[step], *sum);
                }
            }
        }
    }
    for first in (whole..len).step_by(S::F32_LANES) {
        let rest = first..len.min(first + S::F32_LANES);
        for (sums, a) in sums.iter_mut().zip(&left) {
            for (sum, b) in sums.iter_mut().zip(&right) {
                let a = simd.partial_load_f32s(&a[rest.clone()]);
                let b = simd.partial_load_f32s(&b[rest.clone()]);
                *sum = simd.mul_add_f32s(a, b, *sum);
            }
        }
    }
    let mut dots = [[0.0; O]; M];
    for (dots, sums) in dots.iter_mut().zip(&sums) {
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = simd.reduce_sum_f32s(*sum);
        }
    }
    dots
}

/// The vectors of a run of each slice.
#[inline(always)]
fn runs<'a, S: Simd, const N: usize>(
    slices: &[&'a [f32]; N],
    first: usize,
) -> [&'a [S::f32s; UNROLLED]; N] {
    let run = UNROLLED * S::F32_LANES;
    let vectors = |slice: &'a [f32]| {
        let (vectors, _) = S::as_simd_f32s(&slice[first..first + run]);
        vectors.first_chunk().expect("a run of vectors")
    };
    let mut runs = [vectors(slices[0]); N];
    for (run, slice) in runs.iter_mut().zip(slices) {
        *run = vectors(slice);
    }
    runs
}
