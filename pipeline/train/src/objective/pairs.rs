//! The pairs of image-text matching that a rank computes.

use std::ops::Range;

use burn::tensor::Tensor;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{Match, Memory, TokenBatch};

use super::exchange::Share;
use super::negatives::Negatives;

/// Where a pair comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Sample,
    /// The text is a negative that was drawn for the image.
    DrawnText,
    /// The image is a negative that was drawn for the text.
    DrawnImage,
}

/// Pairs of image-text matching whose picture is in a chunk.
pub(super) struct Pairs {
    texts: Vec<usize>,
    /// Pictures, counted from the first of the chunk.
    pictures: Vec<usize>,
    classes: Vec<u32>,
    /// Text, image and origin of each pair, in the global batch.
    keys: Vec<[usize; 3]>,
    /// Pairs of the global batch.
    all: usize,
}

impl Pairs {
    /// - `images`: the chunk, in the global batch.
    pub(super) fn new(drawn: &Negatives, images: Range<usize>) -> Self {
        let mut pairs = Self {
            texts: Vec::new(),
            pictures: Vec::new(),
            classes: Vec::new(),
            keys: Vec::new(),
            all: drawn.pairs(),
        };
        let mut pair = |text: usize, image: usize, origin: Origin| {
            pairs.texts.push(text);
            pairs.pictures.push(image - images.start);
            pairs.classes.push(u32::from(origin == Origin::Sample));
            pairs.keys.push([text, image, origin as usize]);
        };
        for image in images.clone() {
            pair(image, image, Origin::Sample);
        }
        for image in images.clone() {
            if let Some(text) = drawn.texts[image] {
                pair(text, image, Origin::DrawnText);
            }
        }
        for (text, image) in drawn.images.iter().enumerate() {
            if let Some(image) = image.filter(|image| images.contains(image)) {
                pair(text, image, Origin::DrawnImage);
            }
        }
        pairs
    }

    /// The text of each pair.
    pub(super) fn texts(&self, global: &Share, pad: u32) -> TokenBatch {
        let rows = self.texts.iter().map(|text| &global.tokens[*text][..]);
        TokenBatch::new(&rows.collect::<Vec<&[u32]>>(), pad)
    }

    /// Identifies each pair in the global batch: text, image and origin. A key of its draws.
    pub(super) fn keys(&self) -> impl Iterator<Item = [usize; 3]> {
        self.keys.iter().copied()
    }

    /// Their part of the mean over all pairs, `[1]`.
    ///
    /// - `texts`: [`Pairs::texts`].
    pub(super) fn loss(&self, head: &dyn Match, memory: &Memory, texts: &TokenBatch) -> Tensor<1> {
        let logits = head.match_logits(memory, texts, &self.pictures);
        cross_entropy_sum(logits, &self.classes, 0.0) / self.all as f64
    }
}
