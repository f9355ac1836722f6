//! Splitting work over the threads of rayon's current pool, in pieces whose size does not depend
//! on the number of threads.

use rayon::prelude::*;

/// Values of a piece.
const PIECE: usize = 1 << 14;

/// Whether this many values are worth a second thread.
fn worth(values: usize) -> bool {
    values >= 2 * PIECE && rayon::current_num_threads() > 1
}

/// Runs `work` on pieces of whole rows of `out`, with the first row of each.
pub(in crate::ops) fn rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if !worth(out.len()) {
        return work(0, out);
    }
    let count = (PIECE / width.max(1)).max(1);
    let pieces = out.par_chunks_mut(count * width.max(1)).enumerate();
    pieces.for_each(|(index, out)| work(index * count, out));
}

/// Runs `work` on pieces of whole rows of two outputs, with the first row of each.
pub(in crate::ops) fn rows_of_two(
    (a, width): (&mut [f32], usize),
    (b, other): (&mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    if !worth(a.len()) {
        return work(0, a, b);
    }
    let count = (PIECE / width.max(1)).max(1);
    let pieces = a
        .par_chunks_mut(count * width)
        .zip(b.par_chunks_mut(count * other));
    let pieces = pieces.enumerate();
    pieces.for_each(|(index, (a, b))| work(index * count, a, b));
}

/// Columns of a piece.
const COLUMNS: usize = 128;

/// Runs `work` on pieces of one row, with the first column of each; `values` are read for all.
pub(in crate::ops) fn columns(
    out: &mut [f32],
    values: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    if !worth(values) {
        return work(0, out);
    }
    let pieces = out.par_chunks_mut(COLUMNS).enumerate();
    pieces.for_each(|(index, out)| work(index * COLUMNS, out));
}

/// Runs `work` on pieces of `items`, each of which takes as much work as `values` values, with the
/// number of the first item of each.
pub(in crate::ops) fn each<T: Send>(
    items: &mut [T],
    values: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    if !worth(items.len() * values) {
        return work(0, items);
    }
    let count = (PIECE / values.max(1)).max(1);
    let pieces = items.par_chunks_mut(count).enumerate();
    pieces.for_each(|(index, items)| work(index * count, items));
}
