//! Pillow's resampling of 8-bit pictures, to the bit: the support of a filter is widened when
//! shrinking; the picture is resampled first across and then down; each pass computes in fixed
//! point and rounds to 8 bits.
//!
//! The resampling libraries on crates.io round and cut their kernels in other ways and differ by up
//! to 5 of 255 when enlarging.
//!
//! Pillow 13 resamples a picture down first if its height shrinks much more than its width, which
//! changes single values by 1 or 2 of 255. All published models were trained on the order of earlier
//! releases, which is the order here.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`, and `Geometry.c` for [`Filter::Nearest`].

use std::f64::consts::PI;
use std::ops::Range;

/// Fractional bits of a coefficient.
const PRECISION: u32 = 32 - 8 - 2;

/// Pillow's resampling filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The pixel whose area holds the centre of the new pixel.
    Nearest,
    /// Mean of the pixels that a new pixel covers.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming window.
    Hamming,
    /// Cubic convolution with `a = -0.5`.
    Bicubic,
    /// Sinc, windowed to three lobes.
    Lanczos,
}

impl Filter {
    /// The number in Pillow's `Resampling`, which configuration files hold.
    pub fn number(self) -> u8 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// The filter with this number in Pillow's `Resampling`.
    pub fn from_number(number: u64) -> Option<Self> {
        [
            Self::Nearest,
            Self::Lanczos,
            Self::Bilinear,
            Self::Bicubic,
            Self::Box,
            Self::Hamming,
        ]
        .into_iter()
        .find(|filter| u64::from(filter.number()) == number)
    }

    /// Half of the kernel's width in source pixels, when nothing is shrunk.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The kernel at a distance of `x` source pixels.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => hamming(x.abs()),
            Self::Bicubic => bicubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        // Pillow writes the two constants in single precision.
        let x = x * PI;
        x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        let x = x * PI;
        x.sin() / x
    }
}

/// Sides of a picture whose shorter side is brought to `side`. The longer side is truncated to an
/// integer, not rounded, as in the reference implementations.
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
pub fn resize(rgb: Vec<u8>, from: [usize; 2], to: [usize; 2], filter: Filter) -> Vec<u8> {
    resize_region(rgb, from, to, [0..to[0], 0..to[1]], filter)
}

/// The columns and rows `region` of the picture that [`resize`] gives. Computes no pixel outside of
/// the region.
///
/// # Panics
/// As [`resize`], and when the region exceeds `to`.
pub fn resize_region(
    rgb: Vec<u8>,
    from: [usize; 2],
    to: [usize; 2],
    region: [Range<usize>; 2],
    filter: Filter,
) -> Vec<u8> {
    assert_eq!(rgb.len(), 3 * from[0] * from[1], "bytes of the picture");
    let [columns, rows] = region;
    assert!(columns.end <= to[0] && rows.end <= to[1], "the region");
    if from == to && columns.len() == to[0] && rows.len() == to[1] {
        return rgb;
    }
    let across = windows(from[0], to[0], columns, filter);
    let mut down = windows(from[1], to[1], rows, filter);
    // The first pass skips the rows that the second pass does not read.
    let first = down.iter().map(|window| window.first).min().unwrap_or(0);
    let end = down.iter().map(Window::end).max().unwrap_or(0);
    down.iter_mut().for_each(|window| window.first -= first);
    let rgb = &rgb[3 * from[0] * first..3 * from[0] * end];
    let width = across.len();
    resize_down(&resize_across(rgb, from[0], &across), width, &down)
}

/// One output pixel as a weighted sum of input pixels.
struct Window {
    first: usize,
    coefficients: Vec<i32>,
}

impl Window {
    /// A copy of one input pixel.
    fn copy(first: usize) -> Self {
        Self {
            first,
            coefficients: vec![1 << PRECISION],
        }
    }

    fn end(&self) -> usize {
        self.first + self.coefficients.len()
    }
}

/// The windows of the output pixels `wanted` along one axis.
fn windows(from: usize, to: usize, wanted: Range<usize>, filter: Filter) -> Vec<Window> {
    if from == to {
        return wanted.map(Window::copy).collect();
    }
    let scale = from as f64 / to as f64;
    if filter == Filter::Nearest {
        return nearest(scale, from, wanted);
    }
    let widened = scale.max(1.0);
    let support = filter.support() * widened;
    let shrink = 1.0 / widened;
    wanted
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end)
                .map(|source| filter.weight((source as f64 - centre + 0.5) * shrink))
                .collect();
            let sum: f64 = weights.iter().sum();
            let coefficients = weights
                .iter()
                .map(|weight| {
                    let fixed = weight / sum * f64::from(1u32 << PRECISION);
                    // Rounds half away from zero and truncates, as the C code does.
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

fn nearest(scale: f64, from: usize, wanted: Range<usize>) -> Vec<Window> {
    // Pillow adds the scale once per pixel; a product would round in another way.
    let centres = std::iter::successors(Some(scale * 0.5), |centre| Some(centre + scale));
    centres
        .take(wanted.end)
        .skip(wanted.start)
        .map(|centre| Window::copy((centre as usize).min(from - 1)))
        .collect()
}

fn resize_across(rgb: &[u8], from: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / from * windows.len());
    for row in rgb.chunks_exact(3 * from) {
        for window in windows {
            let pixels = row[3 * window.first..].as_chunks::<3>().0.iter();
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

fn resize_down(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 * width * windows.len());
    let mut sums = vec![0i32; 3 * width];
    for window in windows {
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

    const FILTERS: [Filter; 6] = [
        Filter::Nearest,
        Filter::Lanczos,
        Filter::Bilinear,
        Filter::Bicubic,
        Filter::Box,
        Filter::Hamming,
    ];

    fn picture(width: usize, height: usize) -> Vec<u8> {
        (0..3 * width * height)
            .map(|i| (i * 89 % 251) as u8)
            .collect()
    }

    #[test]
    fn a_plain_picture_stays_plain() {
        for filter in FILTERS {
            for to in [[3, 5], [64, 64], [17, 90]] {
                assert!(
                    resize(vec![93; 3 * 31 * 17], [31, 17], to, filter)
                        .iter()
                        .all(|v| *v == 93)
                );
            }
        }
    }

    #[test]
    fn the_same_side_is_a_copy() {
        let rgb = picture(8, 4);
        assert_eq!(resize(rgb.clone(), [8, 4], [8, 4], Filter::Bicubic), rgb);
    }

    #[test]
    fn a_region_is_a_part_of_the_whole() {
        for filter in FILTERS {
            for to in [[20, 12], [50, 40], [31, 9], [31, 17]] {
                let whole = resize(picture(31, 17), [31, 17], to, filter);
                let [columns, rows] = [3..to[0] - 4, 2..to[1] - 1];
                let want: Vec<u8> = whole
                    .chunks_exact(3 * to[0])
                    .skip(rows.start)
                    .take(rows.len())
                    .flat_map(|row| row[3 * columns.start..3 * columns.end].to_vec())
                    .collect();
                let region = [columns, rows];
                let found = resize_region(picture(31, 17), [31, 17], to, region, filter);
                assert_eq!(found, want, "{filter:?} {to:?}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_pillow() {
        for filter in FILTERS {
            assert_eq!(
                Filter::from_number(u64::from(filter.number())),
                Some(filter)
            );
        }
        assert_eq!(Filter::from_number(6), None);
    }
}
