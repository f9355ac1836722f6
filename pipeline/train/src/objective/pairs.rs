//! The pairs of image-text matching that a rank computes.

use std::ops::Range;

use burn::tensor::Tensor;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{Match, Memory, TokenBatch};

use super::exchange::Share;
use super::negatives::Negatives;

/// Pairs of image-text matching whose picture is in a chunk.
pub(super) struct Pairs {
    texts: Vec<usize>,
    /// Pictures, counted from the first of the chunk.
    pictures: Vec<usize>,
    classes: Vec<u32>,
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
            all: drawn.pairs(),
        };
        let mut pair = |text: usize, image: usize, class: u32| {
            pairs.texts.push(text);
            pairs.pictures.push(image - images.start);
            pairs.classes.push(class);
        };
        for image in images.clone() {
            pair(image, image, 1);
        }
        for image in images.clone() {
            if let Some(text) = drawn.texts[image] {
                pair(text, image, 0);
            }
        }
        for (text, image) in drawn.images.iter().enumerate() {
            if let Some(image) = image.filter(|image| images.contains(image)) {
                pair(text, image, 0);
            }
        }
        pairs
    }

    /// Their part of the mean over all pairs, `[1]`.
    pub(super) fn loss(
        &self,
        head: &dyn Match,
        memory: &Memory,
        global: &Share,
        pad: u32,
    ) -> Tensor<1> {
        let rows: Vec<&[u32]> = self
            .texts
            .iter()
            .map(|text| &global.tokens[*text][..])
            .collect();
        let logits = head.match_logits(memory, &TokenBatch::new(&rows, pad), &self.pictures);
        cross_entropy_sum(logits, &self.classes, 0.0) / self.all as f64
    }
}
