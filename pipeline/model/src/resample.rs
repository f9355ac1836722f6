//! Pillow's bicubic resampling, to the bit: a = -0.5, the support widened when
//! shrinking, first across and then down, each pass in fixed point and rounded to
//! 8 bits. (The resampling libraries at hand round and cut their kernels otherwise
//! and are off by up to 5 of 255 when enlarging.)
//!
//! Source: Pillow, `src/libImaging/Resample.c`.

/// Bits behind the point of a coefficient.
const PRECISION: u32 = 32 - 8 - 2;

/// Reach of the bicubic kernel.
const SUPPORT: f64 = 2.0;

/// Sides of a picture whose shorter one is brought to `side`; the longer one is cut,
/// not rounded, as the references do.
pub fn shortest_edge(from: [usize; 2], side: usize) -> [usize; 2] {
    let short = from[0].min(from[1]).max(1);
    from.map(|edge| {
        if edge == short {
            side
        } else {
            side * edge / short
        }
    })
}

/// Resamples `rgb` `[height, width, 3]`; sides are `[width, height]`.
///
/// # Panics
/// When the bytes do not fit the sides, or a side is 0.
pub fn resize(rgb: Vec<u8>, from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    assert_eq!(rgb.len(), 3 * from[0] * from[1], "bytes of the picture");
    let across = if from[0] == to[0] {
        rgb
    } else {
        resize_across(&rgb, from[0], to[0])
    };
    if from[1] == to[1] {
        across
    } else {
        resize_down(&across, from[1], to[1], to[0])
    }
}

/// What one output pixel is a weighted sum of.
struct Window {
    first: usize,
    coefficients: Vec<i32>,
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let support = SUPPORT * widened;
    (0..to)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end)
                .map(|source| bicubic((source as f64 - centre + 0.5) / widened))
                .collect();
            let sum: f64 = weights.iter().sum();
            let coefficients = weights
                .iter()
                .map(|weight| {
                    let fixed = weight / sum * f64::from(1u32 << PRECISION);
                    // Rounds half away from zero and cuts, as the C does.
                    (fixed + 0.5f64.copysign(fixed)) as i32
                })
                .collect();
            Window {
                first,
                coefficients,
            }
        })
        .collect()
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < SUPPORT {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn resize_across(rgb: &[u8], from: usize, to: usize) -> Vec<u8> {
    let windows = windows(from, to);
    let mut out = Vec::with_capacity(rgb.len() / from * to);
    for row in rgb.chunks_exact(3 * from) {
        for window in &windows {
            let pixels = row[3 * window.first..].chunks_exact(3);
            let mut sums = [1i32 << (PRECISION - 1); 3];
            for (pixel, coefficient) in pixels.zip(&window.coefficients) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * coefficient;
                }
            }
            out.extend(sums.map(byte));
        }
    }
    out
}

fn resize_down(rgb: &[u8], from: usize, to: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 * width * to);
    let mut sums = vec![0i32; 3 * width];
    for window in windows(from, to) {
        sums.fill(1 << (PRECISION - 1));
        let rows = rgb.chunks_exact(3 * width).skip(window.first);
        for (row, coefficient) in rows.zip(&window.coefficients) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * coefficient;
            }
        }
        out.extend(sums.iter().copied().map(byte));
    }
    out
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_picture_stays_plain() {
        for to in [[3, 5], [64, 64], [17, 90]] {
            assert!(
                resize(vec![93; 3 * 31 * 17], [31, 17], to)
                    .iter()
                    .all(|v| *v == 93)
            );
        }
    }

    #[test]
    fn the_same_side_is_a_copy() {
        let rgb: Vec<u8> = (0..3 * 8 * 4).map(|i| i as u8).collect();
        assert_eq!(resize(rgb.clone(), [8, 4], [8, 4]), rgb);
    }
}
