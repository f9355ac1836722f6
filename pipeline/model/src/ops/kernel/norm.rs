//! Layer norm of rows, forward and backward.

use super::math::{dot, sum};
use super::parallel;

/// Layer norm of the rows of `x`, or of `x + y`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Input<'a> {
    pub x: &'a [f32],
    pub y: Option<&'a [f32]>,
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
}

/// The norm alone.
pub(in crate::ops) fn value(input: Input<'_>) -> Vec<f32> {
    let width = input.gain.len();
    let mut out = vec![0.0; input.x.len()];
    parallel::rows(&mut out, width, |first, out| norm(input, first, out));
    out
}

/// The norm, and what the backward pass needs: of each row the values of mean 0 and variance 1
/// and, behind them, the factor that made the variance 1.
pub(in crate::ops) fn forward(input: Input<'_>) -> (Vec<f32>, Vec<f32>) {
    let width = input.gain.len();
    let mut out = vec![0.0; input.x.len()];
    let mut kept = vec![0.0; input.x.len() / width * (width + 1)];
    let outputs = ((&mut out[..], width), (&mut kept[..], width + 1));
    parallel::rows_of_two(outputs.0, outputs.1, |first, out, kept| {
        norm_keeping(input, first, out, kept);
    });
    (out, kept)
}

/// Gradient of the input from that of the output and what [`forward`] kept.
pub(in crate::ops) fn of_input(gradient: &[f32], kept: &[f32], gain: &[f32]) -> Vec<f32> {
    let width = gain.len();
    let mut out = vec![0.0; gradient.len()];
    parallel::rows(&mut out, width, |first, out| {
        let gradient = &gradient[first * width..][..out.len()];
        slopes(gradient, &kept[first * (width + 1)..], gain, out);
    });
    out
}

/// Gradient of the gain.
pub(in crate::ops) fn of_gain(gradient: &[f32], kept: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; width];
    parallel::columns(&mut out, gradient.len(), |first, out| {
        add_products(gradient, kept, width, first, out);
    });
    out
}

/// Mean and factor of a row whose values less the mean are in `out`.
#[inline(always)]
fn centre(input: &Input<'_>, row: usize, out: &mut [f32]) -> f32 {
    let width = out.len();
    let x = &input.x[row * width..][..width];
    match input.y {
        Some(y) => {
            for ((out, x), y) in out.iter_mut().zip(x).zip(&y[row * width..]) {
                *out = x + y;
            }
        }
        None => out.copy_from_slice(x),
    }
    let mean = sum(width, |i| out[i]) / width as f32;
    for value in out.iter_mut() {
        *value -= mean;
    }
    let variance = dot(out, out) / width as f32;
    1.0 / (variance + input.epsilon).sqrt()
}

vectorised! {
/// Norms of the rows of `out`, the first of which is row `first` of the input.
fn norm<'a>(input: Input<'a>, first: usize, out: &'a mut [f32]) -> () {
    let width = input.gain.len();
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        let factor = centre(&input, first + row, out);
        for ((value, gain), bias) in out.iter_mut().zip(input.gain).zip(input.bias) {
            *value = (*value * factor).mul_add(*gain, *bias);
        }
    }
}

/// The same, with what the backward pass needs.
fn norm_keeping<'a>(input: Input<'a>, first: usize, out: &'a mut [f32], kept: &'a mut [f32]) -> () {
    let width = input.gain.len();
    let rows = out.chunks_exact_mut(width).zip(kept.chunks_exact_mut(width + 1));
    for (row, (out, kept)) in rows.enumerate() {
        let factor = centre(&input, first + row, out);
        let (normed, rest) = kept.split_at_mut(width);
        rest[0] = factor;
        let scales = input.gain.iter().zip(input.bias);
        for ((value, normed), (gain, bias)) in out.iter_mut().zip(normed).zip(scales) {
            *normed = *value * factor;
            *value = normed.mul_add(*gain, *bias);
        }
    }
}

fn slopes<'a>(gradient: &'a [f32], kept: &'a [f32], gain: &'a [f32], out: &'a mut [f32]) -> () {
    let width = gain.len();
    let mut scaled = vec![0.0; width];
    let rows = gradient.chunks_exact(width).zip(kept.chunks_exact(width + 1));
    for ((gradient, kept), out) in rows.zip(out.chunks_exact_mut(width)) {
        let (normed, factor) = (&kept[..width], kept[width]);
        for i in 0..width {
            scaled[i] = gradient[i] * gain[i];
        }
        let mean = sum(width, |i| scaled[i]) / width as f32;
        let along = dot(&scaled, normed) / width as f32;
        for i in 0..width {
            out[i] = factor * (scaled[i] - mean - normed[i] * along);
        }
    }
}

fn add_products<'a>(
    gradient: &'a [f32],
    kept: &'a [f32],
    width: usize,
    first: usize,
    out: &'a mut [f32],
) -> () {
    for (gradient, kept) in gradient.chunks_exact(width).zip(kept.chunks_exact(width + 1)) {
        let columns = first..first + out.len();
        let products = gradient[columns.clone()].iter().zip(&kept[columns]);
        for (out, (gradient, normed)) in out.iter_mut().zip(products) {
            *out += gradient * normed;
        }
    }
}
}
