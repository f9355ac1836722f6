//! Row by row and value by value.

use super::math::{add_scaled, exp, gelu, max, quick_gelu, scale, sum};
use crate::config::Activation;

vectorised! {
/// Adds the rows of `values` to `sums`.
fn add_rows<'a>(values: &'a [f32], sums: &'a mut [f32]) -> () {
    for row in values.chunks_exact(sums.len()) {
        add_scaled(sums, 1.0, row);
    }
}

/// Adds row `i` of `values` to row `rows[i]` of `sums`.
fn scatter<'a>(values: &'a [f32], width: usize, rows: &'a [u32], sums: &'a mut [f32]) -> () {
    for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
        add_scaled(&mut sums[*row as usize * width..][..width], 1.0, values);
    }
}

/// The sum of two slices.
fn add<'a>(x: &'a [f32], y: &'a [f32], out: &'a mut [f32]) -> () {
    for ((x, y), out) in x.iter().zip(y).zip(out) {
        *out = x + y;
    }
}

/// `values *= factors`.
fn multiply<'a>(values: &'a mut [f32], factors: &'a [f32]) -> () {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
}

/// An activation of every value and its derivative there.
fn activate<'a>(kind: Activation, x: &'a [f32], y: &'a mut [f32], slopes: &'a mut [f32]) -> () {
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

/// Sum of the cross entropies of rows of `logits`; `probabilities` becomes their softmax.
fn cross_entropy<'a>(
    logits: &'a [f32],
    count: usize,
    classes: &'a [u32],
    smoothing: f64,
    probabilities: &'a mut [f32],
) -> f64 {
    let mut total = 0.0;
    let rows = probabilities.chunks_exact_mut(count).zip(logits.chunks_exact(count));
    for ((row, logits), class) in rows.zip(classes) {
        let max = max(logits);
        for (value, logit) in row.iter_mut().zip(logits) {
            *value = exp(*logit - max);
        }
        let all = sum(count, |i| row[i]);
        scale(row, 1.0 / all);
        let mean = f64::from(sum(count, |i| logits[i] - max)) / count as f64;
        let picked = f64::from(logits[*class as usize] - max);
        total += f64::from(all).ln() - (1.0 - smoothing) * picked - smoothing * mean;
    }
    total
}

/// Its gradient: `values` are the probabilities and become it.
fn cross_entropy_slopes<'a>(
    values: &'a mut [f32],
    count: usize,
    classes: &'a [u32],
    smoothing: f32,
    factor: f32,
) -> () {
    let spread = smoothing / count as f32;
    for (row, class) in values.chunks_exact_mut(count).zip(classes) {
        for value in row.iter_mut() {
            *value = (*value - spread) * factor;
        }
        row[*class as usize] -= (1.0 - smoothing) * factor;
    }
}
}
