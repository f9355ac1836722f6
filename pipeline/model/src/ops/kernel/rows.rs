//! Row by row and value by value.

use super::gemm::Values;
use super::math::{add_scaled, exp, gelu, max, quick_gelu, sum, sum_of_exp};
use super::parallel;
use crate::config::Activation;

/// Sum of the rows of `values`, each `width` long.
pub(in crate::ops) fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    parallel::columns(&mut sums, values.len(), |first, sums| {
        add_columns(values, width, first, sums);
    });
    sums
}

/// Adds row `i` of `values` to row `rows[i]` of a matrix of `len` zeros.
pub(in crate::ops) fn scatter(values: &[f32], width: usize, rows: &[u32], len: usize) -> Vec<f32> {
    let mut sums = vec![0.0; len];
    add_to_rows(values, width, rows, &mut sums);
    sums
}

/// The rows of `table` of these numbers, each plus the row of `other` of its own number.
pub(in crate::ops) fn gather_sums(
    (table, rows): (Values<'_>, &[u32]),
    (other, others): (Values<'_>, &[u32]),
    width: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() * width];
    parallel::rows(&mut out, width, |first, out| {
        add_rows_of(table, &rows[first..], other, &others[first..], width, out);
    });
    out
}

/// Rows of patches with the class token before those of each picture, plus the positions.
pub(in crate::ops) fn picture_tokens(
    patches: &[f32],
    class: &[f32],
    positions: &[f32],
) -> Vec<f32> {
    let (width, each) = (class.len(), positions.len());
    let pictures = patches.len() / (each - width);
    let mut out = vec![0.0; pictures * each];
    parallel::rows(&mut out, each, |first, out| {
        let patches = patches[first * (each - width)..].chunks_exact(each - width);
        for (out, patches) in out.chunks_exact_mut(each).zip(patches) {
            let tokens = class.iter().chain(patches).zip(positions);
            for (out, (token, position)) in out.iter_mut().zip(tokens) {
                *out = token + position;
            }
        }
    });
    out
}

/// Groups of `each` values without the first `width` of each.
pub(in crate::ops) fn without_first_rows(values: &[f32], each: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len() / each * (each - width)];
    parallel::rows(&mut out, each - width, |first, out| {
        let groups = values[first * each..].chunks_exact(each);
        for (out, group) in out.chunks_exact_mut(each - width).zip(groups) {
            out.copy_from_slice(&group[width..]);
        }
    });
    out
}

/// An activation of every value.
pub(in crate::ops) fn activate(kind: Activation, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    parallel::rows(&mut y, 1, |first, y| activate_values(kind, &x[first..], y));
    y
}

/// An activation of every value and its derivative there.
pub(in crate::ops) fn activate_both(kind: Activation, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut y, mut slopes) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    parallel::rows_of_two((&mut y, 1), (&mut slopes, 1), |first, y, slopes| {
        differentiate_values(kind, &x[first..], y, slopes);
    });
    (y, slopes)
}

/// `values *= factors`.
pub(in crate::ops) fn multiply(values: &mut [f32], factors: &[f32]) {
    parallel::rows(values, 1, |first, values| {
        for (value, factor) in values.iter_mut().zip(&factors[first..]) {
            *value *= factor;
        }
    });
}

/// Classes of rows, of which each has `count` logits.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Classes<'a> {
    pub count: usize,
    pub of_rows: &'a [u32],
    /// Share of a row's weight that is spread over all classes.
    pub smoothing: f64,
}

/// Largest logit of a row and the inverse sum of the exponentials of all less that.
pub(in crate::ops) type Softmax = [f32; 2];

/// Sum of the cross entropies of rows of `logits`, and what makes the softmax of each.
pub(in crate::ops) fn cross_entropy(logits: &[f32], classes: Classes<'_>) -> (f64, Vec<Softmax>) {
    let mut rows = vec![(0.0, [0.0; 2]); classes.of_rows.len()];
    parallel::each(&mut rows, classes.count, |first, rows| {
        let logits = &logits[first * classes.count..];
        add_losses(logits, classes, &classes.of_rows[first..], rows);
    });
    let total = rows.iter().map(|(loss, _)| loss).sum();
    (
        total,
        rows.into_iter().map(|(_, softmax)| softmax).collect(),
    )
}

/// Its gradient times `factor`, in place of the logits.
pub(in crate::ops) fn cross_entropy_slopes(
    logits: &mut [f32],
    softmax: &[Softmax],
    classes: Classes<'_>,
    factor: f32,
) {
    parallel::rows(logits, classes.count, |first, logits| {
        let rows = &classes.of_rows[first..];
        replace_by_slopes(logits, &softmax[first..], rows, classes, factor);
    });
}

vectorised! {
fn add_columns<'a>(values: &'a [f32], width: usize, first: usize, sums: &'a mut [f32]) -> () {
    for row in values.chunks_exact(width) {
        add_scaled(sums, 1.0, &row[first..first + sums.len()]);
    }
}

fn add_to_rows<'a>(values: &'a [f32], width: usize, rows: &'a [u32], sums: &'a mut [f32]) -> () {
    for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
        add_scaled(&mut sums[*row as usize * width..][..width], 1.0, values);
    }
}

fn add_rows_of<'a>(
    table: Values<'a>,
    rows: &'a [u32],
    other: Values<'a>,
    others: &'a [u32],
    width: usize,
    out: &'a mut [f32],
) -> () {
    let mut second = vec![0.0; width];
    for (out, (row, other_row)) in out.chunks_exact_mut(width).zip(rows.iter().zip(others)) {
        table.read(*row as usize * width, out);
        other.read(*other_row as usize * width, &mut second);
        for (out, second) in out.iter_mut().zip(&second) {
            *out += second;
        }
    }
}

fn activate_values<'a>(kind: Activation, x: &'a [f32], y: &'a mut [f32]) -> () {
    match kind {
        Activation::Gelu => {
            for (x, y) in x.iter().zip(y) {
                *y = gelu(*x).0;
            }
        }
        Activation::QuickGelu => {
            for (x, y) in x.iter().zip(y) {
                *y = quick_gelu(*x).0;
            }
        }
    }
}

fn differentiate_values<'a>(kind: Activation, x: &'a [f32], y: &'a mut [f32], slopes: &'a mut [f32]) -> () {
    match kind {
        Activation::Gelu => {
            for ((x, y), slope) in x.iter().zip(y).zip(slopes) {
                (*y, *slope) = gelu(*x);
            }
        }
        Activation::QuickGelu => {
            for ((x, y), slope) in x.iter().zip(y).zip(slopes) {
                (*y, *slope) = quick_gelu(*x);
            }
        }
    }
}

fn add_losses<'a>(
    logits: &'a [f32],
    classes: Classes<'a>,
    of_rows: &'a [u32],
    out: &'a mut [(f64, Softmax)],
) -> () {
    let (count, smoothing) = (classes.count, classes.smoothing);
    for ((logits, class), out) in logits.chunks_exact(count).zip(of_rows).zip(out) {
        let max = max(logits);
        let all = sum_of_exp(logits, max);
        let mean = f64::from(sum(count, |i| logits[i] - max)) / count as f64;
        let picked = f64::from(logits[*class as usize] - max);
        let loss = f64::from(all).ln() - (1.0 - smoothing) * picked - smoothing * mean;
        *out = (loss, [max, 1.0 / all]);
    }
}

fn replace_by_slopes<'a>(
    logits: &'a mut [f32],
    softmax: &'a [Softmax],
    of_rows: &'a [u32],
    classes: Classes<'a>,
    factor: f32,
) -> () {
    let spread = classes.smoothing as f32 / classes.count as f32;
    let rows = logits.chunks_exact_mut(classes.count).zip(softmax).zip(of_rows);
    for ((row, softmax), class) in rows {
        // By value: behind a reference the compiler must fear that the row overlaps them.
        let [max, inverse] = *softmax;
        for value in row.iter_mut() {
            let probability = exp(*value - max) * inverse;
            *value = (probability - spread) * factor;
        }
        row[*class as usize] -= (1.0 - classes.smoothing as f32) * factor;
    }
}
}
