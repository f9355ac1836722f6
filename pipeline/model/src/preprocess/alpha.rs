//! Pictures with transparent parts, drawn on white.

use image::RgbaImage;

/// Bits that Pillow keeps beyond the 16 of a product of two bytes.
const PRECISION: u32 = 7;

/// The colours of `picture` over a white background, `[height, width, 3]`.
///
/// The same integers as `Image.alpha_composite` over opaque white. Source: Pillow,
/// `src/libImaging/AlphaComposite.c`.
pub(super) fn on_white(picture: &RgbaImage) -> Vec<u8> {
    let pixels = picture.as_raw().as_chunks::<4>().0.iter();
    pixels
        .flat_map(|&[red, green, blue, alpha]| {
            let share = u32::from(alpha) << PRECISION;
            let rest = (255 << PRECISION) - share;
            [red, green, blue].map(|colour| {
                let sum = u32::from(colour) * share + 255 * rest + (0x80 << PRECISION);
                // Divides by 255.
                ((((sum >> 8) + sum) >> 8) >> PRECISION) as u8
            })
        })
        .collect()
}
