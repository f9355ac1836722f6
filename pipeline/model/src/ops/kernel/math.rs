//! Functions of every value, written so that the compiler vectorises them.

use std::ops::Range;

/// Lanes of a running sum: a fixed order of additions that vectors can follow.
pub(in crate::ops) const LANES: usize = 16;

/// `e^x` to two units in the last place over all finite results (Cephes `expf`).
#[inline(always)]
pub(in crate::ops) fn exp(x: f32) -> f32 {
    // Adding this pushes the fraction out of the mantissa: rounding without a call.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut poly = 1.987_569_1e-4f32;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        poly = poly.mul_add(r, coefficient);
    }
    let value = poly.mul_add(r * r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    f32::from_bits((value.to_bits() as i32).wrapping_add(exponent << 23) as u32)
}

/// Distribution and density of the standard normal (Abramowitz and Stegun 7.1.26,
/// absolute error below 2e-7).
#[inline(always)]
pub(in crate::ops) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let mut poly = 1.061_405_4f32;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        poly = poly.mul_add(t, coefficient);
    }
    let bell = exp(-z * z);
    let tail = 0.5 * poly * t * bell;
    let distribution = if x < 0.0 { tail } else { 1.0 - tail };
    (distribution, bell * 0.398_942_3)
}

/// GELU and its derivative.
#[inline(always)]
pub(in crate::ops) fn gelu(x: f32) -> (f32, f32) {
    let (distribution, density) = normal(x);
    (x * distribution, x.mul_add(density, distribution))
}

/// `x * sigmoid(1.702 x)` and its derivative.
#[inline(always)]
pub(in crate::ops) fn quick_gelu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-1.702 * x));
    (
        x * sigmoid,
        sigmoid * (1.702 * x).mul_add(1.0 - sigmoid, 1.0),
    )
}

/// Sum of `map(i)` over `0..len`.
#[inline(always)]
pub(in crate::ops) fn sum(len: usize, map: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    let mut first = 0;
    while first < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += map(first + lane);
        }
        first += LANES;
    }
    for (lane, index) in (whole..len).enumerate() {
        lanes[lane] += map(index);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Dot product.
#[inline(always)]
pub(in crate::ops) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len();
    let b = &b[..len];
    sum(len, |i| a[i] * b[i])
}

/// Largest value.
#[inline(always)]
pub(in crate::ops) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = if *value > *lane { *value } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `y += a * x`.
#[inline(always)]
pub(in crate::ops) fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    let (x, x_rest) = x.as_chunks::<LANES>();
    for (y, x) in y.iter_mut().zip(x) {
        *y = fused(*y, a, *x);
    }
    for (y, x) in y_rest.iter_mut().zip(x_rest) {
        *y = a.mul_add(*x, *y);
    }
}

/// `y + a * x` of whole vectors, by value: in memory the compiler must fear that they overlap.
#[inline(always)]
fn fused(mut y: [f32; LANES], a: f32, x: [f32; LANES]) -> [f32; LANES] {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
    y
}

/// Sum of `e^(x - max)` over a row.
#[inline(always)]
pub(in crate::ops) fn sum_of_exp(row: &[f32], max: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(*value - max);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += exp(*value - max);
    }
    sum(LANES, |lane| lanes[lane])
}

/// Softmax of the visible values of a row in place, zero elsewhere; gives the largest value and
/// the inverse of the sum of the exponentials of all less that. The row has whole vectors of
/// [`LANES`] up to the last visible value at least.
#[inline(always)]
pub(in crate::ops) fn softmax(row: &mut [f32], visible: Range<usize>) -> [f32; 2] {
    let chunks = clear_outside(row, &visible);
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (chunk, seen) in chunks.iter().zip(Seen::chunks(&visible)) {
        for (i, (lane, value)) in lanes.iter_mut().zip(chunk).enumerate() {
            let larger = seen.lane(i) & (*value > *lane);
            *lane = if larger { *value } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    exp_visible(chunks, &visible, max, 1.0);
    let row = chunks.as_flattened();
    let inverse = 1.0 / sum(row.len(), |i| row[i]);
    for chunk in chunks {
        for value in chunk {
            *value *= inverse;
        }
    }
    [max, inverse]
}

/// `e^(x - max) * factor` of the visible values, zero for the others. The first of the chunks has
/// the first visible value.
#[inline(always)]
pub(in crate::ops) fn exp_visible(
    chunks: &mut [[f32; LANES]],
    visible: &Range<usize>,
    max: f32,
    factor: f32,
) {
    for (chunk, seen) in chunks.iter_mut().zip(Seen::chunks(visible)) {
        for (i, value) in chunk.iter_mut().enumerate() {
            let power = exp(*value - max) * factor;
            *value = if seen.lane(i) { power } else { 0.0 };
        }
    }
}

/// Zero for the values that are not visible. The first of the chunks has the first visible value.
#[inline(always)]
pub(in crate::ops) fn mask(chunks: &mut [[f32; LANES]], visible: &Range<usize>) {
    for (chunk, seen) in chunks.iter_mut().zip(Seen::chunks(visible)) {
        for (i, value) in chunk.iter_mut().enumerate() {
            *value = if seen.lane(i) { *value } else { 0.0 };
        }
    }
}

/// The visible lanes of a chunk, as numbers that are as wide as the values.
#[derive(Clone, Copy)]
struct Seen {
    start: i32,
    end: i32,
}

impl Seen {
    /// Those of the chunks from the first visible value on.
    #[inline(always)]
    fn chunks(visible: &Range<usize>) -> impl Iterator<Item = Self> + use<> {
        let start = (visible.start % LANES) as i32;
        let end = start + visible.len() as i32;
        (0..).step_by(LANES).map(move |first| Self {
            start: start - first,
            end: end - first,
        })
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> bool {
        (lane as i32 >= self.start) & ((lane as i32) < self.end)
    }
}

/// Zeros in the chunks of a row that have no visible value; gives the other chunks.
#[inline(always)]
pub(in crate::ops) fn clear_outside<'a>(
    row: &'a mut [f32],
    visible: &Range<usize>,
) -> &'a mut [[f32; LANES]] {
    let (first, last) = (
        visible.start / LANES * LANES,
        visible.end.next_multiple_of(LANES),
    );
    let (row, rest) = row.split_at_mut(last);
    // A fill is a call, even of nothing.
    if !rest.is_empty() {
        rest.fill(0.0);
    }
    let (before, row) = row.split_at_mut(first);
    if !before.is_empty() {
        before.fill(0.0);
    }
    row.as_chunks_mut().0
}

/// Copies as many values as `to` has.
#[inline(always)]
pub(in crate::ops) fn copy(to: &mut [f32], from: &[f32]) {
    // A copy of unknown length would be a call, which costs more than most of these copies.
    const FEW: usize = 8;
    let (to, to_rest) = to.as_chunks_mut::<FEW>();
    let (from, from_rest) = from.as_chunks::<FEW>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    let from_rest = from.get(to.len()).map_or(from_rest, |chunk| &chunk[..]);
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_the_last_places() {
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            let wanted = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / wanted - 1.0).abs() < 3e-7,
                "exp({x}) = {}",
                exp(x)
            );
        }
        assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_its_derivative_fit_each_other() {
        // Phi at known points.
        for (x, wanted) in [
            (0.0, 0.5),
            (1.0, 0.841_344_7),
            (-2.0, 0.022_750_13),
            (3.0, 0.998_650_1),
        ] {
            assert!((normal(x).0 - wanted).abs() < 3e-7, "Phi({x})");
        }
        for function in [gelu, quick_gelu] {
            for i in -600..600 {
                let x = f64::from(i) / 100.0;
                let h = 1e-2;
                let (after, before) = (function((x + h) as f32).0, function((x - h) as f32).0);
                let slope = f64::from(after - before) / (2.0 * h);
                assert!(
                    (slope - f64::from(function(x as f32).1)).abs() < 2e-4,
                    "at {x}"
                );
            }
        }
    }

    #[test]
    fn softmax_adds_to_one_and_hides_what_is_not_visible() {
        let scores: Vec<f32> = (0..48).map(|i| (i as f32).sin() * 5.0).collect();
        for visible in [0..48, 0..18, 3..18, 17..33, 47..48] {
            let mut row = scores.clone();
            let [max, inverse] = softmax(&mut row, visible.clone());
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            for (i, (found, score)) in row.iter().zip(&scores).enumerate() {
                let again = exp(score - max) * inverse;
                assert_eq!(*found, if visible.contains(&i) { again } else { 0.0 });
            }
        }
    }

    #[test]
    fn copies_are_whole() {
        let from: Vec<f32> = (0..40).map(|i| i as f32).collect();
        for len in [0, 1, 7, 8, 9, 16, 23] {
            let mut to = vec![-1.0; len];
            copy(&mut to, &from);
            assert_eq!(to, from[..len]);
        }
    }
}
