//! From encoded pictures to the pixels that a network takes.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::path::Path;

use crate::folder;
pub use crate::resample::{resize, shortest_edge};

/// File of the preparation in a model folder.
pub const FILE: &str = "preprocessor_config.json";

/// Larger pictures are refused by their header.
const MAX_SIDE: u32 = 1 << 14;
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Why a picture cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its bytes are no picture, or are cut off, or claim too many pixels.
    #[error("the picture cannot be decoded")]
    Decode(#[from] image::ImageError),
    /// Its container is unknown.
    #[error("the picture cannot be read")]
    Read(#[from] std::io::Error),
    /// The bytes are not those of a picture of these sides.
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

/// How a picture is brought to the side that a network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Both sides are resized to it (BLIP).
    Square,
    /// The shorter side is resized to it and the middle cut out; of an odd surplus the
    /// smaller half goes first (Hugging Face's CLIP).
    Crop,
    /// The same, half of an odd surplus rounded to even (torchvision, open_clip).
    CropHalfEven,
}

/// Preparation of pictures for one network.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePreprocess {
    /// Side in pixels.
    pub side: usize,
    /// How the side is reached.
    pub fit: Fit,
    /// Mean of each colour, of values in `0..=1`.
    pub mean: [f32; 3],
    /// Standard deviation of each colour.
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

/// The same as files of Hugging Face hold it. Of the fields that nothing here reads, each release
/// of its library leaves out others.
#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    image_processor_type: String,
    #[serde(default)]
    do_convert_rgb: bool,
    #[serde(default)]
    do_resize: bool,
    #[serde(default)]
    do_center_crop: bool,
    #[serde(default)]
    do_rescale: bool,
    #[serde(default)]
    do_normalize: bool,
    #[serde(default)]
    rescale_factor: f64,
    /// Bicubic.
    #[serde(default)]
    resample: u8,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    size: Size,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_size: Option<Size>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Size {
    Square { height: usize, width: usize },
    Shortest { shortest_edge: usize },
}

impl ImagePreprocess {
    /// Square pictures of this side, values brought to about -2..2: those of models of ours.
    pub fn new(side: usize) -> Self {
        Self {
            side,
            fit: Fit::Square,
            mean: [0.5; 3],
            std: [0.27; 3],
        }
    }

    /// Reads `preprocessor_config.json` of a model folder.
    ///
    /// # Errors
    /// [`folder::Error`].
    pub fn load(path: &Path) -> Result<Self, folder::Error> {
        let mut file = path.join(FILE);
        if !file.exists() {
            file = path.join(crate::blip::CAPTIONER_FOLDER).join(FILE);
        }
        let file: File = folder::read_json(&file)?;
        let (side, fit) = match file.size {
            Size::Square { height, .. } => (height, Fit::Square),
            Size::Shortest { shortest_edge } => (shortest_edge, Fit::Crop),
        };
        Ok(Self {
            side,
            fit,
            mean: file.image_mean,
            std: file.image_std,
        })
    }

    /// Writes `preprocessor_config.json` into a model folder.
    ///
    /// # Errors
    /// [`folder::Error::Write`].
    pub fn save(&self, path: &Path) -> Result<(), folder::Error> {
        let square = || Size::Square {
            height: self.side,
            width: self.side,
        };
        let crop = self.fit != Fit::Square;
        let file = File {
            image_processor_type: if crop {
                "CLIPImageProcessor"
            } else {
                "BlipImageProcessor"
            }
            .to_owned(),
            do_convert_rgb: true,
            do_resize: true,
            do_center_crop: crop,
            do_rescale: true,
            do_normalize: true,
            rescale_factor: 1.0 / 255.0,
            resample: 3,
            image_mean: self.mean,
            image_std: self.std,
            size: if crop {
                Size::Shortest {
                    shortest_edge: self.side,
                }
            } else {
                square()
            },
            crop_size: crop.then(square),
        };
        folder::write_json(&path.join(FILE), &file)
    }

    /// Decodes an encoded picture and brings it to the network's side; one that has
    /// that side already is not resampled.
    ///
    /// # Errors
    /// [`Error`]: a picture that is none, is cut off, or is too large.
    pub fn decode(&self, bytes: &[u8]) -> Result<Picture, Error> {
        let mut reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        let rgb = reader.decode()?.into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        self.fit(width, height, rgb.into_raw())
    }

    /// Brings `rgb` `[height, width, 3]` to the network's side.
    ///
    /// # Errors
    /// [`Error::Bytes`]: the bytes do not fit the sides.
    pub fn fit(&self, width: usize, height: usize, rgb: Vec<u8>) -> Result<Picture, Error> {
        let side = self.side;
        if rgb.len() != 3 * width * height || rgb.is_empty() {
            return Err(Error::Bytes {
                bytes: rgb.len(),
                width,
                height,
            });
        }
        let rgb = match self.fit {
            Fit::Square => resize(rgb, [width, height], [side, side]),
            Fit::Crop | Fit::CropHalfEven => {
                let to = shortest_edge([width, height], side);
                let [left, top] = to.map(|edge| surplus(edge - side, self.fit));
                crop(&resize(rgb, [width, height], to), to[0], [left, top], side)
            }
        };
        Ok(Picture { side, rgb })
    }

    /// Normalised pixels `[3, side, side]` of a picture.
    pub fn normalise(&self, picture: &Picture) -> Vec<f32> {
        let plane = picture.side * picture.side;
        let mut pixels = vec![0.0; 3 * plane];
        for (colour, values) in pixels.chunks_exact_mut(plane).enumerate() {
            let (mean, std) = (self.mean[colour], self.std[colour]);
            let table: Vec<f32> = (0..256).map(|v| (v as f32 / 255.0 - mean) / std).collect();
            for (value, pixel) in values.iter_mut().zip(picture.rgb.chunks_exact(3)) {
                *value = table[usize::from(pixel[colour])];
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

/// How much of a surplus goes before the middle.
fn surplus(surplus: usize, fit: Fit) -> usize {
    let half = surplus / 2;
    let odd = !surplus.is_multiple_of(2);
    if fit == Fit::CropHalfEven && odd {
        half + half % 2
    } else {
        half
    }
}

/// `side` x `side` of a picture of this width from `left` and `top` on.
fn crop(rgb: &[u8], width: usize, [left, top]: [usize; 2], side: usize) -> Vec<u8> {
    rgb.chunks_exact(3 * width)
        .skip(top)
        .take(side)
        .flat_map(|row| &row[3 * left..3 * (left + side)])
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

    fn png(width: u32, height: u32) -> (Vec<u8>, Vec<u8>) {
        let rgb: Vec<u8> = (0..width * height * 3)
            .map(|i| (i * 7 % 251) as u8)
            .collect();
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .expect("encoded");
        (bytes, rgb)
    }

    #[test]
    fn a_picture_of_the_right_side_is_not_resampled() {
        let (bytes, rgb) = png(64, 64);
        let preprocess = ImagePreprocess::new(64);
        assert_eq!(preprocess.decode(&bytes).expect("decoded").rgb, rgb);
        let pixels = preprocess.pixels(&bytes).expect("pixels");
        assert_eq!(pixels[1], (f32::from(rgb[3]) / 255.0 - 0.5) / 0.27);
        assert_eq!(pixels[64 * 64], (f32::from(rgb[1]) / 255.0 - 0.5) / 0.27);
    }

    #[test]
    fn other_sides_are_fitted() {
        let (bytes, _) = png(31, 17);
        for fit in [Fit::Square, Fit::Crop] {
            let preprocess = ImagePreprocess {
                fit,
                ..ImagePreprocess::new(8)
            };
            assert_eq!(preprocess.pixels(&bytes).expect("pixels").len(), 3 * 64);
        }
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        let (bytes, _) = png(64, 64);
        let preprocess = ImagePreprocess::new(64);
        for bad in [&bytes[..bytes.len() / 2], b"<html>", b""] {
            assert!(preprocess.pixels(bad).is_err());
        }
    }

    #[test]
    fn the_file_round_trips() {
        let folder = tempfile::tempdir().expect("a folder");
        for fit in [Fit::Square, Fit::Crop] {
            let preprocess = ImagePreprocess {
                fit,
                ..ImagePreprocess::new(48)
            };
            preprocess.save(folder.path()).expect("saved");
            assert_eq!(
                ImagePreprocess::load(folder.path()).expect("loaded"),
                preprocess
            );
        }
    }

    #[test]
    fn files_of_released_models_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        // As it lies beside BLIP, written by an early release of the library.
        let text = r#"{"do_normalize": true, "do_pad": true, "do_rescale": true,
            "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "BlipImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711], "processor_class": "BlipProcessor",
            "resample": 3, "rescale_factor": 0.00392156862745098,
            "size": {"height": 384, "width": 384}, "size_divisor": 32}"#;
        std::fs::write(folder.path().join(FILE), text).expect("written");
        let read = ImagePreprocess::load(folder.path()).expect("read");
        assert_eq!((read.side, read.fit), (384, Fit::Square));
        assert_eq!(read.mean[1], 0.457_827_5);
    }
}
