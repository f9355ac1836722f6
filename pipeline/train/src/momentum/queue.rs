//! The newest momentum features, as further negatives and positives of the contrast.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};
use capstan_plan::draw::Draws;
use capstan_plan::id::Digest;
use rayon::prelude::*;

use super::Features;

/// What a sample has in common with positives of it in other batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classes {
    /// Its picture.
    pub picture: u64,
    /// A digest of its tokens.
    pub text: u64,
}

impl Classes {
    /// - `picture`: a number that is the same in every batch.
    pub fn new(picture: u32, tokens: &[u32]) -> Self {
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let digest = Digest::of(&bytes).0;
        let text = digest.first_chunk().expect("a digest has 32 bytes");
        Self {
            picture: u64::from(picture),
            text: u64::from_le_bytes(*text),
        }
    }
}

/// Features of past samples, with the classes of each. The oldest are replaced first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    width: usize,
    images: Vec<f32>,
    texts: Vec<f32>,
    classes: Vec<Option<Classes>>,
    next: usize,
}

/// Momentum features of a global batch, in the order of its samples: what a queue takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Newest {
    /// Image features, `[samples, width]`.
    pub images: Vec<f32>,
    /// Text features, `[samples, width]`.
    pub texts: Vec<f32>,
    /// Classes of each sample.
    pub classes: Vec<Classes>,
}

impl Queue {
    /// A queue of drawn unit features that belong to no sample, as BLIP's begins.
    pub fn drawn(capacity: usize, width: usize, seed: u64) -> Self {
        let draws = Draws::new(seed, "momentum queue");
        let units = |side: &[u8]| {
            let mut values = vec![0f32; capacity * width];
            let entries = values.par_chunks_exact_mut(width.max(1)).enumerate();
            entries.for_each(|(entry, values)| {
                let item = [side, &(entry as u64).to_le_bytes()].concat();
                fill_unit(draws.units(&item), values);
            });
            values
        };
        Self {
            width,
            images: units(b"images"),
            texts: units(b"texts"),
            classes: vec![None; capacity],
            next: 0,
        }
    }

    /// A queue as a checkpoint holds it; `None` where the parts do not fit together.
    ///
    /// - `images`, `texts`: `[capacity, width]`.
    /// - `classes`: `[capacity]`, `None` where an entry belongs to no sample.
    /// - `next`: the entry that is replaced next.
    pub fn from_parts(
        images: Vec<f32>,
        texts: Vec<f32>,
        width: usize,
        classes: Vec<Option<Classes>>,
        next: usize,
    ) -> Option<Self> {
        let capacity = classes.len();
        let fits = images.len() == capacity * width
            && texts.len() == images.len()
            && (next < capacity || next == 0);
        fits.then_some(Self {
            width,
            images,
            texts,
            classes,
            next,
        })
    }

    /// Number of entries.
    pub fn capacity(&self) -> usize {
        self.classes.len()
    }

    /// Size of a feature.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Image and text features, each `[capacity, width]`.
    pub fn features(&self) -> [&[f32]; 2] {
        [&self.images, &self.texts]
    }

    /// The classes of each entry.
    pub fn classes(&self) -> &[Option<Classes>] {
        &self.classes
    }

    /// The entry that is replaced next.
    pub fn next(&self) -> usize {
        self.next
    }

    /// Replaces the oldest entries by the features of a batch. Of a batch that is larger than the
    /// queue, the last samples stay.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn push(&mut self, newest: &Newest) {
        let width = self.width;
        assert!(
            newest.images.len() == newest.classes.len() * width
                && newest.texts.len() == newest.images.len(),
            "features of every sample"
        );
        if self.capacity() == 0 {
            return;
        }
        for (sample, classes) in newest.classes.iter().enumerate() {
            let from = sample * width..(sample + 1) * width;
            let to = self.next * width..(self.next + 1) * width;
            self.images[to.clone()].copy_from_slice(&newest.images[from.clone()]);
            self.texts[to].copy_from_slice(&newest.texts[from]);
            self.classes[self.next] = Some(*classes);
            self.next = (self.next + 1) % self.capacity();
        }
    }

    /// The features of a batch and, behind them, those of the queue.
    ///
    /// - `batch`: momentum features of the whole global batch.
    pub fn entries(&self, batch: &Features) -> Features {
        if self.capacity() == 0 {
            return batch.clone();
        }
        let device = batch.images.device();
        let after = |batch: &Tensor<2>, queue: &[f32]| {
            Tensor::cat(vec![batch.clone(), self.tensor(queue, &device)], 0)
        };
        Features {
            images: after(&batch.images, &self.images),
            texts: after(&batch.texts, &self.texts),
        }
    }

    fn tensor(&self, values: &[f32], device: &Device) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [self.capacity(), self.width]);
        Tensor::from_data(data, device)
    }
}

/// Fills `values` with a direction drawn uniformly: normal draws (Box and Muller), scaled to length 1.
fn fill_unit(mut draws: impl Iterator<Item = f64>, values: &mut [f32]) {
    let mut draw = || draws.next().expect("the stream of draws has no end");
    let normals: Vec<f64> = (0..values.len())
        .map(|_| {
            // The first factor is of a draw in (0, 1], so the logarithm stays finite.
            (-2.0 * (1.0 - draw()).ln()).sqrt() * (TAU * draw()).cos()
        })
        .collect();
    let norm = normals.iter().map(|x| x * x).sum::<f64>().sqrt();
    for (value, normal) in values.iter_mut().zip(normals) {
        *value = (normal / norm) as f32;
    }
}
