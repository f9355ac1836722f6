//! Matrix products of the sizes that small models have.
//!
//! A general library spends more on packing and planning such products than on
//! multiplying. Here only the right side is packed, into panels that stay in cache,
//! and a block of rows and two vectors of columns live in registers. Each output
//! value is one chain of fused multiply-adds over the inner dimension, so it does not
//! depend on the number of rows: a picture's result is the same in every batch.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// A matrix in a slice: value `(row, column)` is at `row * rows + column * columns`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    pub values: &'a [f32],
    /// Whether it lies there transposed: `(row, column)` at `column * stride + row`.
    pub transposed: bool,
    /// Length of a stored row.
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix as it lies.
    pub fn new(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            transposed: false,
            stride,
        }
    }

    /// The transposed of what lies there.
    pub fn transposed(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            transposed: true,
            stride,
        }
    }
}

/// What the sums start from.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Start<'a> {
    /// Zero.
    Zero,
    /// A value for each column.
    Bias(&'a [f32]),
}

/// Products of fewer multiplications are not worth a second thread.
const PARALLEL_FROM: usize = 1 << 21;

/// Rows that one task of a pool computes.
const TASK_ROWS: usize = 128;

/// `out[m, n] = start + left[m, k] * right[k, n]`.
pub(in crate::ops) fn gemm(
    [m, n, k]: [usize; 3],
    left: Matrix<'_>,
    right: Matrix<'_>,
    start: Start<'_>,
    out: &mut [f32],
) {
    assert_eq!(out.len(), m * n, "size of the product");
    if m == 0 || n == 0 {
        return;
    }
    Arch::new().dispatch(Product {
        n,
        k,
        left,
        right,
        start,
        out,
    });
}

struct Product<'a> {
    n: usize,
    k: usize,
    left: Matrix<'a>,
    right: Matrix<'a>,
    start: Start<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = 2 * S::F32_LANES;
        let Self {
            n,
            k,
            left,
            right,
            start,
            out,
        } = self;
        let panels = pack(right, k, n, width);
        let starts = padded_start(start, n, width);
        let m = out.len() / n;
        if m * n * k < PARALLEL_FROM || m <= TASK_ROWS || rayon::current_num_threads() == 1 {
            rows::<S>(simd, n, k, left, 0, &panels, &starts, out);
        } else {
            out.par_chunks_mut(TASK_ROWS * n)
                .enumerate()
                .for_each(|(task, out)| {
                    Arch::new().dispatch(Rows {
                        n,
                        k,
                        left,
                        first: task * TASK_ROWS,
                        panels: &panels,
                        starts: &starts,
                        out,
                    });
                });
        }
    }
}

/// A block of rows on another thread.
struct Rows<'a> {
    n: usize,
    k: usize,
    left: Matrix<'a>,
    first: usize,
    panels: &'a [f32],
    starts: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        rows::<S>(
            simd,
            self.n,
            self.k,
            self.left,
            self.first,
            self.panels,
            self.starts,
            self.out,
        );
    }
}

/// The right side as panels of `width` columns, `[panels][k][width]`, padded with zeros.
#[inline(always)]
fn pack(right: Matrix<'_>, k: usize, n: usize, width: usize) -> Vec<f32> {
    let mut panels = vec![0.0; n.div_ceil(width) * width * k];
    for (index, panel) in panels.chunks_exact_mut(k.max(1) * width).enumerate() {
        let first = index * width;
        let count = width.min(n - first);
        if right.transposed {
            for (column, row) in right.values[first * right.stride..]
                .chunks(right.stride)
                .take(count)
                .enumerate()
            {
                for (line, value) in panel.chunks_exact_mut(width).zip(&row[..k]) {
                    line[column] = *value;
                }
            }
        } else {
            for (line, row) in panel
                .chunks_exact_mut(width)
                .zip(right.values.chunks(right.stride))
            {
                line[..count].copy_from_slice(&row[first..first + count]);
            }
        }
    }
    panels
}

#[inline(always)]
fn padded_start(start: Start<'_>, n: usize, width: usize) -> Vec<f32> {
    let mut values = vec![0.0; n.next_multiple_of(width)];
    if let Start::Bias(bias) = start {
        values[..n].copy_from_slice(bias);
    }
    values
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rows<S: Simd>(
    simd: S,
    n: usize,
    k: usize,
    left: Matrix<'_>,
    first: usize,
    panels: &[f32],
    starts: &[f32],
    out: &mut [f32],
) {
    let m = out.len() / n;
    let mut packed = Vec::new();
    let mut row = 0;
    while row < m {
        let block = Block {
            simd,
            n,
            k,
            left,
            at: first + row,
            panels,
            starts,
        };
        // Registers hold eight rows where there are 32 of them, else four.
        row += match m - row {
            8.. if S::REGISTER_COUNT >= 32 => block.compute::<8>(row, &mut packed, out),
            4.. => block.compute::<4>(row, &mut packed, out),
            2.. => block.compute::<2>(row, &mut packed, out),
            _ => block.compute::<1>(row, &mut packed, out),
        };
    }
}

/// A few rows of the left side and all of the right.
struct Block<'a, S> {
    simd: S,
    n: usize,
    k: usize,
    left: Matrix<'a>,
    /// Row of the left side.
    at: usize,
    panels: &'a [f32],
    starts: &'a [f32],
}

impl<S: Simd> Block<'_, S> {
    /// `R` rows of the product, from `row` on; gives `R`.
    #[inline(always)]
    fn compute<const R: usize>(&self, row: usize, packed: &mut Vec<f32>, out: &mut [f32]) -> usize {
        let stride = self.left.stride;
        // Value `i` of line `p` is row `i` of the left side at step `p`.
        let (values, stride) = if self.left.transposed {
            (&self.left.values[self.at..], stride)
        } else {
            packed.resize(self.k * R, 0.0);
            for i in 0..R {
                let row = &self.left.values[(self.at + i) * stride..][..self.k];
                for (line, value) in packed.as_chunks_mut::<R>().0.iter_mut().zip(row) {
                    line[i] = *value;
                }
            }
            (&packed[..self.k * R], R)
        };
        let width = 2 * S::F32_LANES;
        let panels = self.panels.chunks_exact(self.k * width);
        for (index, (panel, start)) in panels.zip(self.starts.chunks_exact(width)).enumerate() {
            let (start, _) = S::as_simd_f32s(start);
            let mut sums = [[start[0], start[1]]; R];
            for (line, values) in panel.chunks_exact(width).zip(values.chunks(stride)) {
                let values: &[f32; R] = values.first_chunk().expect("rows of the left side");
                self.step(&mut sums, line, values);
            }
            let column = index * width;
            let count = width.min(self.n - column);
            for (i, sums) in sums.iter().enumerate() {
                let out = &mut out[(row + i) * self.n + column..][..count];
                let (vectors, _) = S::as_mut_simd_f32s(out);
                if let [a, b] = vectors {
                    [*a, *b] = *sums;
                } else {
                    let lanes: &[f32] = pulp::bytemuck::cast_slice(sums);
                    out.copy_from_slice(&lanes[..count]);
                }
            }
        }
        R
    }

    #[inline(always)]
    fn step<const R: usize>(&self, sums: &mut [[S::f32s; 2]; R], line: &[f32], left: &[f32; R]) {
        let (line, _) = S::as_simd_f32s(line);
        let (b0, b1) = (line[0], line[1]);
        for (sums, a) in sums.iter_mut().zip(left) {
            let a = self.simd.splat_f32s(*a);
            sums[0] = self.simd.mul_add_f32s(a, b0, sums[0]);
            sums[1] = self.simd.mul_add_f32s(a, b1, sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5)
            .collect()
    }

    #[test]
    fn every_layout_and_size_gives_the_plain_product() {
        for [m, n, k] in [
            [1, 1, 1],
            [3, 5, 7],
            [17, 33, 64],
            [272, 64, 64],
            [9, 300, 20],
            [40, 2, 64],
            [600, 70, 70],
        ] {
            let (a, b, bias) = (values(m * k, 1), values(k * n, 2), values(n, 3));
            let transpose = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..columns)
                    .flat_map(|c| (0..rows).map(move |r| (r, c)))
                    .map(|(r, c)| x[r * columns + c])
                    .collect()
            };
            let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
            let plain: Vec<f64> = (0..m * n)
                .map(|i| {
                    let (row, column) = (i / n, i % n);
                    (0..k)
                        .map(|p| f64::from(a[row * k + p]) * f64::from(b[p * n + column]))
                        .sum()
                })
                .collect();
            for (left_t, right_t, biased) in [
                (false, false, false),
                (true, false, true),
                (false, true, true),
                (true, true, false),
            ] {
                let left = if left_t {
                    Matrix::transposed(&at, m)
                } else {
                    Matrix::new(&a, k)
                };
                let right = if right_t {
                    Matrix::transposed(&bt, k)
                } else {
                    Matrix::new(&b, n)
                };
                let start = if biased {
                    Start::Bias(&bias)
                } else {
                    Start::Zero
                };
                let mut out = vec![f32::NAN; m * n];
                gemm([m, n, k], left, right, start, &mut out);
                for (i, value) in out.iter().enumerate() {
                    let wanted = plain[i] + if biased { f64::from(bias[i % n]) } else { 0.0 };
                    assert!(
                        (f64::from(*value) - wanted).abs() < 1e-3,
                        "{m} {n} {k}: {value} for {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others_nor_on_threads() {
        let (m, n, k) = (1000, 64, 64);
        let (a, b) = (values(m * k, 4), values(k * n, 5));
        let product = |rows: std::ops::Range<usize>| {
            let mut out = vec![0.0; rows.len() * n];
            let left = Matrix::new(&a[rows.start * k..rows.end * k], k);
            gemm(
                [rows.len(), n, k],
                left,
                Matrix::new(&b, n),
                Start::Zero,
                &mut out,
            );
            out
        };
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool")
        };
        let whole = pool(1).install(|| product(0..m));
        assert_eq!(whole, pool(3).install(|| product(0..m)));
        for row in [0, 5, 999] {
            assert_eq!(product(row..row + 1), whole[row * n..(row + 1) * n]);
        }
    }
}
