//! Matrix products on the CPU.
//!
//! A product has a wide side, whose vectors are interleaved into panels so that one load gives a
//! value of each, and a narrow side, whose values are broadcast one by one from where they lie. A
//! tile of a few narrow and two vectors of wide values has its sums in registers. [`product`]
//! chooses the sides so that the smaller one is packed: the weight for many rows, the rows for a
//! large weight. Blocks of the inner dimension keep the panels in the first cache and the sums in
//! the second.
//!
//! Order of additions: each output value is one chain of fused multiply-adds over the inner
//! dimension, from the bias on. The chain depends neither on the number of rows nor on the number
//! of threads. The exception is a product of at most [`STREAMED_ROWS`] rows with a stored
//! `[outputs, inputs]` matrix, which [`stream`] computes as dot products of vectors: reading the
//! matrix is all that it costs. Its order depends on the inner dimension alone. A row among at
//! most [`STREAMED_ROWS`] may therefore differ in the last places from the same row among more.
//!
//! The crate `gemm`, on which burn's CPU backend is built, is as fast for a few hundred rows and
//! more (within a tenth), and reaches 0.7 of this speed at 32 rows and half at 8, because it packs
//! the weight. It cannot be called without `unsafe`.

mod operand;
mod product;
mod stream;
#[cfg(test)]
mod tests;
mod tile;

use pulp::Arch;

pub(super) use operand::Operand;
pub(in crate::ops) use operand::{Matrix, Values};
pub(super) use product::add_product;
pub(super) use stream::dots;
pub(super) use tile::{Panels, STEP, Sums};

/// What the sums start from.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Start<'a> {
    /// Zero.
    Zero,
    /// A value for each column.
    Bias(&'a [f32]),
}

/// Most rows whose product with a stored matrix is computed while streaming the matrix.
pub(in crate::ops) const STREAMED_ROWS: usize = 4;

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
    match left.values {
        Values::F32(rows)
            if m <= STREAMED_ROWS && n >= stream::FROM && right.transposed && !left.transposed =>
        {
            let rows = stream::Rows {
                values: rows,
                stride: left.stride,
                count: m,
            };
            stream::multiply(rows, right, k, start, out);
        }
        _ => Arch::new().dispatch(product::Whole::new([m, n, k], left, right, start, out)),
    }
}
