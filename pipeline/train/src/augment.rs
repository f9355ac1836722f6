//! Augmentation of one picture and its normalisation into the planes that a model takes. All draws
//! are keyed by the seed, the data epoch and the text.
//!
//! ```text
//! whole picture ─► random crop, resized ─► flip ─► RandAugment ─► shift ─► brightness, normalised
//! prepared picture (without a crop) ────────┘
//! ```

mod crop;
mod randaugment;
mod warp;

use std::borrow::Cow;

use capstan_model::ImagePreprocess;
use capstan_model::preprocess::{Rgb, resize};
use capstan_plan::draw::Draws;
use capstan_plan::id::TextId;
use capstan_plan::stage::{self, Augmentation};

use crop::CropArea;

/// Draws of a data epoch that the keyed families below may use.
const DRAWS_OF_EPOCH: u64 = 1 << 12;

/// Varies and normalises pictures.
#[derive(Debug, Clone)]
pub struct Augment {
    draws: Draws,
    shift_px: u32,
    jitter: f32,
    settings: Option<Augmentation>,
    crops: Draws,
    flips: Draws,
    operations: Draws,
    preprocess: ImagePreprocess,
}

/// What was drawn for one picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drawn {
    /// Source row of target row 0, and column of column 0; may lie outside the picture.
    rows: i64,
    columns: i64,
    factor: f32,
    offset: f32,
}

impl Augment {
    /// - `config`: `augment`, `shift_px` and `brightness_jitter` are used.
    /// - `preprocess`: how the model takes pictures.
    pub fn new(seed: u64, config: &stage::Train, preprocess: &ImagePreprocess) -> Self {
        Self {
            draws: Draws::new(seed, "augment"),
            shift_px: config.shift_px,
            jitter: config.brightness_jitter,
            settings: config.augment.clone(),
            crops: Draws::new(seed, "augment crop"),
            flips: Draws::new(seed, "augment flip"),
            operations: Draws::new(seed, "augment operations"),
            preprocess: preprocess.clone(),
        }
    }

    /// Whether pictures are needed as they are, not brought to the model's side.
    pub fn crops(&self) -> bool {
        let settings = self.settings.as_ref();
        settings.is_some_and(|settings| settings.crop_scale.is_some())
    }

    fn draw(&self, data_epoch: u64, text_id: &TextId) -> Drawn {
        let unit = |position: u64| self.draws.unit(&text_id.0.0, data_epoch * 4 + position);
        let places = f64::from(2 * self.shift_px + 1);
        let shift = |position| (unit(position) * places) as i64 - i64::from(self.shift_px);
        let sway = |position| (2.0 * unit(position) - 1.0) as f32;
        Drawn {
            rows: shift(0),
            columns: shift(1),
            factor: 1.0 + self.jitter * sway(2),
            offset: 0.5 * self.jitter * sway(3),
        }
    }

    /// The picture at the model's side, cropped, flipped and varied by RandAugment.
    fn varied<'a>(&self, (data_epoch, text_id): (u64, &TextId), picture: &'a Rgb) -> Cow<'a, [u8]> {
        let keyed = |draws: Draws| {
            let item = text_id.0.0;
            move |draw: u64| draws.unit(&item, data_epoch * DRAWS_OF_EPOCH + draw)
        };
        let side = self.preprocess.side;
        let Some(settings) = &self.settings else {
            return Cow::Borrowed(&picture.bytes);
        };
        let mut rgb = match settings.crop_scale {
            Some(scale) => {
                let from = [picture.width, picture.height];
                let area = CropArea::draw(from, scale, settings.crop_ratio, keyed(self.crops));
                resize(
                    area.of(picture),
                    area.sides,
                    [side; 2],
                    self.preprocess.filter,
                )
            }
            None => picture.bytes.clone(),
        };
        if settings.flip && keyed(self.flips)(0) < 0.5 {
            flip(&mut rgb, side);
        }
        if let Some(settings) = settings.randaugment {
            rgb = randaugment::apply(rgb, side, settings, keyed(self.operations));
        }
        Cow::Owned(rgb)
    }

    /// Writes the augmented, normalised picture.
    ///
    /// - `picture`: as it is if [`Augment::crops`], else at the model's side.
    /// - `planes`: `[3, side, side]`, `((x * scale) * factor + offset - mean) / std`.
    ///
    /// # Panics
    /// If `planes` has another length than `3 * side * side`, or a picture that should be at the
    /// model's side is not.
    pub fn apply(&self, key: (u64, &TextId), picture: &Rgb, planes: &mut [f32]) {
        let side = self.preprocess.side;
        let rgb = self.varied(key, picture);
        assert_eq!(rgb.len(), 3 * side * side, "a picture of side {side}");
        assert_eq!(planes.len(), rgb.len(), "planes of side {side}");
        let drawn = self.draw(key.0, key.1);
        let tables = self.tables(&drawn);
        let inside =
            |place: usize, shift: i64| (place as i64 + shift).clamp(0, side as i64 - 1) as usize;
        let (red, rest) = planes.split_at_mut(side * side);
        let (green, blue) = rest.split_at_mut(side * side);
        for y in 0..side {
            let row = &rgb[3 * side * inside(y, drawn.rows)..][..3 * side];
            for x in 0..side {
                let pixel = &row[3 * inside(x, drawn.columns)..][..3];
                let target = y * side + x;
                red[target] = tables[0][usize::from(pixel[0])];
                green[target] = tables[1][usize::from(pixel[1])];
                blue[target] = tables[2][usize::from(pixel[2])];
            }
        }
    }

    /// One table per colour instead of arithmetic per pixel: a byte has 256 values.
    fn tables(&self, drawn: &Drawn) -> [[f32; 256]; 3] {
        let ImagePreprocess {
            scale, mean, std, ..
        } = &self.preprocess;
        // Brightness is meant for values of 0 to 1, whatever scale the model takes.
        let offset = drawn.offset * (scale * 255.0) as f32;
        std::array::from_fn(|c| {
            std::array::from_fn(|value| {
                let scaled = self.preprocess.scaled(value as u8);
                (scaled * drawn.factor + offset - mean[c]) / std[c]
            })
        })
    }
}

/// Mirrors `rgb` `[side, side, 3]` left to right.
fn flip(rgb: &mut [u8], side: usize) {
    for row in rgb.chunks_exact_mut(3 * side) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

#[cfg(test)]
pub(crate) mod tests;
