//! The newest momentum features, as further negatives and positives of the contrast.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};
use capstan_plan::draw::Draws;

use super::Features;

/// Features of past samples, with the picture of each. The oldest are replaced first.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    width: usize,
    images: Vec<f32>,
    texts: Vec<f32>,
    pictures: Vec<Option<u64>>,
    next: usize,
}

impl Queue {
    /// A queue of drawn unit features that belong to no picture, as BLIP's begins.
    pub fn drawn(capacity: usize, width: usize, seed: u64) -> Self {
        let draws = Draws::new(seed, "momentum queue");
        let units = |side: &[u8]| -> Vec<f32> {
            (0..capacity as u64)
                .flat_map(|entry| unit(&draws, side, entry, width))
                .collect()
        };
        Self {
            width,
            images: units(b"images"),
            texts: units(b"texts"),
            pictures: vec![None; capacity],
            next: 0,
        }
    }

    /// A queue as a checkpoint holds it.
    ///
    /// - `images`, `texts`: `[capacity, width]`.
    /// - `pictures`: `[capacity]`, `None` where an entry belongs to no picture.
    /// - `next`: the entry that is replaced next.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn from_parts(
        images: Vec<f32>,
        texts: Vec<f32>,
        pictures: Vec<Option<u64>>,
        next: usize,
    ) -> Self {
        let capacity = pictures.len();
        assert!(capacity > 0 && next < capacity, "an entry of the queue");
        let width = images.len() / capacity;
        assert!(
            images.len() == capacity * width && texts.len() == images.len(),
            "features of every entry"
        );
        Self {
            width,
            images,
            texts,
            pictures,
            next,
        }
    }

    /// Number of entries.
    pub fn capacity(&self) -> usize {
        self.pictures.len()
    }

    /// Image and text features, each `[capacity, width]`.
    pub fn features(&self) -> [&[f32]; 2] {
        [&self.images, &self.texts]
    }

    /// The picture of each entry.
    pub fn pictures(&self) -> &[Option<u64>] {
        &self.pictures
    }

    /// The entry that is replaced next.
    pub fn next(&self) -> usize {
        self.next
    }

    /// Replaces the oldest entries by the features of a batch.
    ///
    /// - `images`, `texts`: `[samples, width]`.
    /// - `pictures`: `[samples]`.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn push(&mut self, images: &[f32], texts: &[f32], pictures: &[u64]) {
        let width = self.width;
        assert!(
            images.len() == pictures.len() * width && texts.len() == images.len(),
            "features of every sample"
        );
        for (sample, picture) in pictures.iter().enumerate() {
            let from = sample * width..(sample + 1) * width;
            let to = self.next * width..(self.next + 1) * width;
            self.images[to.clone()].copy_from_slice(&images[from.clone()]);
            self.texts[to].copy_from_slice(&texts[from]);
            self.pictures[self.next] = Some(*picture);
            self.next = (self.next + 1) % self.capacity();
        }
    }

    /// The features of a batch and, behind them, those of the queue.
    ///
    /// - `batch`: momentum features of the whole global batch.
    pub fn entries(&self, batch: &Features) -> Features {
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

/// A direction drawn uniformly: normal draws (Box and Muller), scaled to length 1.
fn unit(draws: &Draws, side: &[u8], entry: u64, width: usize) -> Vec<f32> {
    let item = [side, &entry.to_le_bytes()].concat();
    let normal = |at: u64| {
        // In (0, 1]: the logarithm stays finite.
        let radius = (-2.0 * (1.0 - draws.unit(&item, 2 * at)).ln()).sqrt();
        radius * (TAU * draws.unit(&item, 2 * at + 1)).cos()
    };
    let values: Vec<f64> = (0..width as u64).map(normal).collect();
    let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    values.iter().map(|x| (x / norm) as f32).collect()
}
