//! Layer norm of rows, forward and backward.

use super::math::{dot, sum};

vectorised! {
/// Norms every row of `x` in place to mean 0 and variance 1, gives the factors; `out`
/// is what follows with gain and bias.
fn forward<'a>(
    x: &'a mut [f32],
    gain: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
    factors: &'a mut [f32],
) -> () {
    let width = gain.len();
    for ((row, out), kept) in x.chunks_exact_mut(width).zip(out.chunks_exact_mut(width)).zip(factors) {
        let mean = sum(width, |i| row[i]) / width as f32;
        for value in row.iter_mut() {
            *value -= mean;
        }
        let variance = dot(row, row) / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        *kept = factor;
        for i in 0..width {
            row[i] *= factor;
            out[i] = row[i].mul_add(gain[i], bias[i]);
        }
    }
}

/// Gradients of input, gain and bias from that of the output. `normed` and `factors`
/// are what [`forward`] left.
fn backward<'a>(
    gradient: &'a [f32],
    normed: &'a [f32],
    factors: &'a [f32],
    gain: &'a [f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let mut of_gain = vec![0.0; width];
    let mut of_bias = vec![0.0; width];
    let mut of_input = vec![0.0; gradient.len()];
    let mut scaled = vec![0.0; width];
    let rows = gradient.chunks_exact(width).zip(normed.chunks_exact(width)).zip(factors);
    for (((gradient, normed), factor), of_input) in rows.zip(of_input.chunks_exact_mut(width)) {
        for i in 0..width {
            of_gain[i] += gradient[i] * normed[i];
            of_bias[i] += gradient[i];
            scaled[i] = gradient[i] * gain[i];
        }
        let mean = sum(width, |i| scaled[i]) / width as f32;
        let along = dot(&scaled, normed) / width as f32;
        for i in 0..width {
            of_input[i] = factor * (scaled[i] - mean - normed[i] * along);
        }
    }
    (of_input, of_gain, of_bias)
}
}
