//! BLIP's RandAugment.
//!
//! Source: salesforce/BLIP, `transform/randaugment.py`, and `data/__init__.py` for the operations.
//! Three differences from its code:
//! - AutoContrast follows the comment there, "same output as PIL.ImageOps.autocontrast". The code
//!   negates an unsigned byte, which makes a colour white everywhere unless its darkest value is 0.
//! - Sharpness saturates at 0 and 255, where the code wraps around. At BLIP's magnitude of 5 it
//!   changes nothing.
//! - Geometric operations interpolate exactly, as OpenCV 5 does within 1 of 255. OpenCV 4 rounds
//!   coordinates to 1/32 of a pixel.

use std::array;

use capstan_plan::stage::RandAugment;

use super::warp::{Affine, warp};

/// The largest magnitude.
const MAX_LEVEL: f64 = 10.0;
/// Pixels of a translation of the largest magnitude.
const TRANSLATION_PX: f64 = 10.0;
/// Shear of the largest magnitude.
const SHEAR: f64 = 0.3;
/// Degrees of a rotation of the largest magnitude.
const ROTATION: f64 = 30.0;
/// Draws for one operation.
const DRAWS: u64 = 3;

/// One operation, with its sign where it has one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operation {
    Identity,
    AutoContrast,
    Brightness,
    Sharpness,
    Equalize,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
}

/// The operations in BLIP's order.
const OPERATIONS: [Operation; 10] = [
    Operation::Identity,
    Operation::AutoContrast,
    Operation::Brightness,
    Operation::Sharpness,
    Operation::Equalize,
    Operation::ShearX,
    Operation::ShearY,
    Operation::TranslateX,
    Operation::TranslateY,
    Operation::Rotate,
];

/// Applies each of the drawn operations with probability one half to `rgb` `[side, side, 3]`.
///
/// - `unit`: uniform draws from `[0, 1)` by their number.
pub(super) fn apply(
    mut rgb: Vec<u8>,
    side: usize,
    settings: RandAugment,
    unit: impl Fn(u64) -> f64,
) -> Vec<u8> {
    for number in 0..u64::from(settings.operations) {
        let draw = |place| unit(DRAWS * number + place);
        if draw(1) < 0.5 {
            let operation = OPERATIONS[(draw(0) * OPERATIONS.len() as f64) as usize];
            let sign = if draw(2) < 0.5 { 1.0 } else { -1.0 };
            rgb = operation.apply(rgb, side, f64::from(settings.magnitude), sign);
        }
    }
    rgb
}

impl Operation {
    /// - `magnitude`: 0 to 10.
    /// - `sign`: 1 or -1; decides the direction of a geometric operation.
    pub(super) fn apply(self, rgb: Vec<u8>, side: usize, magnitude: f64, sign: f64) -> Vec<u8> {
        let level = magnitude / MAX_LEVEL;
        let enhanced = (level * 1.8 + 0.1) as f32;
        let shear = f64::from((sign * level * SHEAR) as f32);
        let translation = f64::from((sign * level * TRANSLATION_PX) as f32);
        let affine = |matrix| warp(&rgb, side, Affine(matrix).inverse());
        match self {
            Self::Identity => rgb,
            Self::AutoContrast => per_colour(rgb, auto_contrast),
            Self::Equalize => per_colour(rgb, equalize),
            Self::Brightness => {
                let table = array::from_fn(|value| (value as f32 * enhanced) as u8);
                per_colour(rgb, |_| table)
            }
            Self::Sharpness => sharpen(rgb, side, enhanced),
            Self::ShearX => affine([[1.0, shear, 0.0], [0.0, 1.0, 0.0]]),
            Self::ShearY => affine([[1.0, 0.0, 0.0], [shear, 1.0, 0.0]]),
            Self::TranslateX => affine([[1.0, 0.0, -translation], [0.0, 1.0, 0.0]]),
            Self::TranslateY => affine([[1.0, 0.0, 0.0], [0.0, 1.0, -translation]]),
            Self::Rotate => affine(rotation(side, sign * level * ROTATION)),
        }
    }
}

/// Maps each colour by the table that follows from its histogram.
fn per_colour(mut rgb: Vec<u8>, table: impl Fn(&[u32; 256]) -> [u8; 256]) -> Vec<u8> {
    let mut histograms = [[0; 256]; 3];
    for pixel in rgb.as_chunks::<3>().0 {
        for (histogram, value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(*value)] += 1;
        }
    }
    let tables = histograms.each_ref().map(table);
    for pixel in rgb.as_chunks_mut::<3>().0 {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
    rgb
}

/// Stretches the values to 0..=255.
fn auto_contrast(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|count| *count > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|count| *count > 0).unwrap_or(0);
    if high <= low {
        return array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// Makes the histogram flat.
fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let last = histogram.iter().rfind(|count| **count > 0).unwrap_or(&0);
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return array::from_fn(|value| value as u8);
    }
    let mut below = step / 2;
    histogram.map(|count| {
        let value = (below / step).min(255) as u8;
        below += count;
        value
    })
}

/// Moves each value away from its smoothed surroundings (`factor` above 1) or towards them. Pixels at
/// the edge stay.
fn sharpen(rgb: Vec<u8>, side: usize, factor: f32) -> Vec<u8> {
    if factor == 1.0 || side < 3 {
        return rgb;
    }
    let row = 3 * side;
    let mut out = rgb.clone();
    for y in 1..side - 1 {
        for at in y * row + 3..(y + 1) * row - 3 {
            let lines = [at - row, at, at + row];
            let sum: u32 = lines
                .iter()
                .flat_map(|line| [rgb[line - 3], rgb[*line], rgb[line + 3]])
                .map(u32::from)
                .sum();
            // A mean in which the pixel itself counts five times, rounded.
            let smooth = ((2 * (sum + 4 * u32::from(rgb[at])) + 13) / 26) as f32;
            out[at] = (smooth + factor * (f32::from(rgb[at]) - smooth)) as u8;
        }
    }
    out
}

/// OpenCV's rotation about the centre of a picture, counter-clockwise.
fn rotation(side: usize, degrees: f64) -> [[f64; 3]; 2] {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let centre = side as f64 / 2.0;
    [
        [cos, sin, (1.0 - cos) * centre - sin * centre],
        [-sin, cos, sin * centre + (1.0 - cos) * centre],
    ]
}
