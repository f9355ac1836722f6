//! From encoded pictures to the pixels that a network takes.

mod alpha;
mod config;
mod open_clip;

use burn::tensor::{Device, Tensor, TensorData};
use image::DynamicImage;
use std::io::Cursor;
use std::ops::Range;

pub use crate::resample::{Filter, resize, resize_region, shortest_edge};
pub use config::{FILE, Unsupported};

/// Larger pictures are refused by their header.
const MAX_SIDE: u32 = 1 << 14;
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Why a picture cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a picture, are incomplete, or declare too many pixels.
    #[error("the picture cannot be decoded")]
    Decode(#[from] image::ImageError),
    /// The container format is unknown.
    #[error("the picture cannot be read")]
    Read(#[from] std::io::Error),
    /// The number of bytes does not match the sides.
    #[error("{bytes} bytes are no picture of {width} x {height} pixels")]
    Bytes {
        /// Bytes given.
        bytes: usize,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
}

/// How a picture is resized before its middle is cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The picture keeps its sides.
    Off,
    /// The shorter side is resized to this; the ratio of the sides is kept.
    Shortest(usize),
    /// Width and height are resized to these.
    To([usize; 2]),
}

/// Which part of an odd surplus the centre crop removes first, and where a missing row or column is
/// added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// The smaller half of the surplus goes first; the larger half of the padding goes first (Hugging
    /// Face's Pillow backend).
    Floor,
    /// Half of an odd surplus is rounded to even; the smaller half of the padding goes first
    /// (torchvision, open_clip).
    HalfEven,
}

/// What replaces the transparent parts of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transparency {
    /// The picture is drawn on white (Hugging Face since transformers 5).
    White,
    /// The alpha channel is dropped: the colours below it show (open_clip, the original CLIP and
    /// BLIP).
    Dropped,
}

/// Preparation of pictures for one network.
///
/// In this order: colours without transparency, [`Resize`], the middle `side` x `side` (padded with
/// black where the picture is smaller), `(value * scale - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePreprocess {
    /// Side of the result in pixels.
    pub side: usize,
    /// How the picture is resized.
    pub resize: Resize,
    /// The resampling filter.
    pub filter: Filter,
    /// How the middle is cut out where a side of the resized picture differs from `side`.
    pub rounding: Rounding,
    /// What replaces the transparent parts.
    pub transparency: Transparency,
    /// Factor of the byte values, usually 1/255.
    pub scale: f64,
    /// Mean of each colour, of scaled values.
    pub mean: [f32; 3],
    /// Standard deviation of each colour, of scaled values.
    pub std: [f32; 3],
}

/// A decoded picture of the network's side: `[side, side, 3]` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Side in pixels.
    pub side: usize,
    /// Red, green and blue of every pixel, row by row.
    pub rgb: Vec<u8>,
}

/// A decoded picture of any sides: `[height, width, 3]` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green and blue of every pixel, row by row.
    pub bytes: Vec<u8>,
}

impl ImagePreprocess {
    /// Square pictures of this side, values brought to about -2..2: the preparation of models whose
    /// training begins here.
    pub fn new(side: usize) -> Self {
        Self {
            side,
            resize: Resize::To([side, side]),
            filter: Filter::Bicubic,
            rounding: Rounding::Floor,
            transparency: Transparency::White,
            scale: 1.0 / 255.0,
            mean: [0.5; 3],
            std: [0.27; 3],
        }
    }

    /// Decodes an encoded picture at its own sides. EXIF orientation is not applied, as in Pillow.
    ///
    /// # Errors
    /// [`Error`]: the bytes are not a picture, are incomplete, or declare too many pixels.
    pub fn decode_whole(&self, bytes: &[u8]) -> Result<Rgb, Error> {
        let mut reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        let image = reader.decode()?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Rgb {
            width,
            height,
            bytes: self.colours(image),
        })
    }

    fn colours(&self, image: DynamicImage) -> Vec<u8> {
        if self.transparency == Transparency::White && image.color().has_alpha() {
            alpha::on_white(&image.into_rgba8())
        } else {
            image.into_rgb8().into_raw()
        }
    }

    /// Decodes an encoded picture and brings it to the network's side. A picture that has that side
    /// already is not resampled.
    ///
    /// # Errors
    /// As [`ImagePreprocess::decode_whole`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Picture, Error> {
        let whole = self.decode_whole(bytes)?;
        self.fit(whole.width, whole.height, whole.bytes)
    }

    /// Brings `rgb` `[height, width, 3]` to the network's side.
    ///
    /// # Errors
    /// [`Error::Bytes`]: the bytes do not fit the sides.
    pub fn fit(&self, width: usize, height: usize, rgb: Vec<u8>) -> Result<Picture, Error> {
        let from = [width, height];
        if rgb.len() != 3 * width * height || rgb.is_empty() {
            return Err(Error::Bytes {
                bytes: rgb.len(),
                width,
                height,
            });
        }
        let to = match self.resize {
            Resize::Off => from,
            Resize::Shortest(edge) => shortest_edge(from, edge),
            Resize::To(sides) => sides,
        };
        let middles = to.map(|edge| Middle::new(edge, self.side, self.rounding));
        let region = middles.clone().map(|middle| middle.kept);
        let rgb = resize_region(rgb, from, to, region, self.filter);
        Ok(Picture {
            side: self.side,
            rgb: pad(rgb, &middles, self.side),
        })
    }

    /// The normalised value of each byte, for each colour.
    pub fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|colour| {
            let (mean, std) = (self.mean[colour], self.std[colour]);
            std::array::from_fn(|value| (self.scaled(value as u8) - mean) / std)
        })
    }

    /// A byte times the scale, rounded once, as the reference does.
    pub fn scaled(&self, value: u8) -> f32 {
        (f64::from(value) * self.scale) as f32
    }

    /// Normalised pixels `[3, side, side]` of a picture.
    pub fn normalise(&self, picture: &Picture) -> Vec<f32> {
        let plane = picture.side * picture.side;
        let mut pixels = vec![0.0; 3 * plane];
        let tables = self.tables();
        for (colour, values) in pixels.chunks_exact_mut(plane).enumerate() {
            for (value, pixel) in values.iter_mut().zip(picture.rgb.as_chunks::<3>().0) {
                *value = tables[colour][usize::from(pixel[colour])];
            }
        }
        pixels
    }

    /// Normalised pixels `[3, side, side]` of an encoded picture.
    ///
    /// # Errors
    /// As [`ImagePreprocess::decode`].
    pub fn pixels(&self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        Ok(self.normalise(&self.decode(bytes)?))
    }

    /// A batch `[pictures, 3, side, side]` of the pixels of pictures, one after the other.
    ///
    /// # Panics
    /// When `pixels` is not a whole number of pictures.
    pub fn batch(&self, pixels: Vec<f32>, device: &Device) -> Tensor<4> {
        let each = 3 * self.side * self.side;
        assert!(pixels.len().is_multiple_of(each), "whole pictures");
        let shape = [pixels.len() / each, 3, self.side, self.side];
        Tensor::from_data(TensorData::new(pixels, shape), device)
    }
}

/// The middle of one axis.
#[derive(Clone)]
struct Middle {
    /// Pixels of the resized picture that are kept.
    kept: Range<usize>,
    /// Black pixels before them.
    before: usize,
}

impl Middle {
    /// `side` of `edge` pixels.
    fn new(edge: usize, side: usize, rounding: Rounding) -> Self {
        if edge < side {
            let missing = side - edge;
            let before = match rounding {
                Rounding::Floor => missing.div_ceil(2),
                Rounding::HalfEven => missing / 2,
            };
            return Self {
                kept: 0..edge,
                before,
            };
        }
        let surplus = edge - side;
        let half = surplus / 2;
        let first = match rounding {
            Rounding::HalfEven if surplus % 2 == 1 => half + half % 2,
            _ => half,
        };
        Self {
            kept: first..first + side,
            before: 0,
        }
    }
}

/// `rgb` in a black square where it is smaller than that.
fn pad(rgb: Vec<u8>, [across, down]: &[Middle; 2], side: usize) -> Vec<u8> {
    if rgb.len() == 3 * side * side {
        return rgb;
    }
    let mut out = vec![0; 3 * side * side];
    let rows = out.chunks_exact_mut(3 * side).skip(down.before);
    for (row, from) in rows.zip(rgb.chunks_exact(3 * across.kept.len())) {
        row[3 * across.before..][..from.len()].copy_from_slice(from);
    }
    out
}

#[cfg(test)]
mod tests;
