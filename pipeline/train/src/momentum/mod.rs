//! BLIP's momentum encoders, queues and soft labels (Li et al. 2021, "Align before fuse", section 3;
//! `models/blip_pretrain.py` of the BLIP release).
//!
//! ```text
//! params ──► Momentum::update ──► Momentum::features ──┬─► entries: batch, then queue
//!                                                      │            │
//! online features ─────────────────────────────────────┼─► contrast ┘ with soft labels
//!                                                      └─► Queue::push, after the contrast
//! ```
//! The copies and the queues have no gradient. They are buffers: a checkpoint saves them with the
//! parameters.

mod contrast;
mod queue;

pub use contrast::{SoftContrast, contrast, hard_targets, soft_cross_entropy_sum};
pub use queue::Queue;

use std::ops::Range;

use burn::tensor::Tensor;
use capstan_model::{Med, MedParts, Model, TokenBatch};

/// Unit features of pictures and of their texts, each `[samples, width]`.
#[derive(Debug, Clone)]
pub struct Features {
    /// Of the pictures.
    pub images: Tensor<2>,
    /// Of the texts.
    pub texts: Tensor<2>,
}

/// Copies of a MED's encoders that follow it slowly.
#[derive(Debug, Clone)]
pub struct Momentum {
    encoders: Med,
    params: Vec<f32>,
    /// Places of each copied tensor: in the online parameters, and here.
    pairs: Vec<(Range<usize>, Range<usize>)>,
    rate: f64,
}

/// Parts of a filter that have no momentum copy.
const UNCOPIED: [&str; 2] = ["itm_head.", "temperature"];

impl Momentum {
    /// Copies of the encoders of `online` as they are.
    ///
    /// - `rate`: share of the old value that an update keeps; 0.995 in BLIP's recipe.
    ///
    /// # Panics
    /// When `online` is a captioner, which has no text encoder.
    pub fn new(online: &Med, rate: f64) -> Self {
        assert!(online.parts().encodes(), "a captioner has no encoders");
        let device = online.device().clone().inner();
        let mut encoders = Med::new(online.config().clone(), MedParts::Filter, &device);
        let layout = online.layout();
        let places = encoders.layout().into_iter().map(|own| {
            let place = layout.iter().find(|slice| slice.name == own.name);
            (
                own.name,
                place.expect("an encoder's tensor").range.clone(),
                own.range,
            )
        });
        let places: Vec<_> = places.collect();
        let all = online.to_flat();
        let mut params = vec![0.0; encoders.num_params()];
        for (_, from, to) in &places {
            params[to.clone()].copy_from_slice(&all[from.clone()]);
        }
        encoders.load_flat(&params);
        let copied = |name: &str| !UNCOPIED.iter().any(|part| name.starts_with(part));
        let pairs = places.into_iter().filter(|(name, ..)| copied(name));
        Self {
            pairs: pairs.map(|(_, from, to)| (from, to)).collect(),
            encoders,
            params,
            rate,
        }
    }

    /// Moves every copy towards the online parameters: `copy * rate + online * (1 - rate)`. BLIP does
    /// so before it takes the momentum features of a step.
    ///
    /// - `params`: all parameters of the online network, in the order of its layout.
    ///
    /// # Panics
    /// When `params` is not as long as the online network's.
    pub fn update(&mut self, params: &[f32]) {
        let (keep, take) = (self.rate as f32, (1.0 - self.rate) as f32);
        for (from, to) in &self.pairs {
            let online = &params[from.clone()];
            for (copy, online) in self.params[to.clone()].iter_mut().zip(online) {
                *copy = *copy * keep + online * take;
            }
        }
        self.encoders.load_flat(&self.params);
    }

    /// Features of a batch by the copies, without gradients.
    pub fn features(&self, pixels: Tensor<4>, texts: &TokenBatch) -> Features {
        let images = self.encoders.encode(pixels.inner());
        Features {
            images: self.encoders.image_features(&images),
            texts: self.encoders.text_features(texts),
        }
    }

    /// The copies as a filter; its match head and temperature are not updated.
    pub fn encoders(&self) -> &Med {
        &self.encoders
    }

    /// All values of the copies, in the order of [`Momentum::encoders`]'s layout.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// Goes on from a checkpoint.
    ///
    /// # Panics
    /// When `params` has another length than [`Momentum::params`].
    pub fn restore(&mut self, params: &[f32]) {
        self.params.copy_from_slice(params);
        self.encoders.load_flat(&self.params);
    }
}

/// The share of soft labels at a step: it rises to `peak` over two epochs.
pub fn soft_label_share(peak: f64, step: u64, steps_per_epoch: u64) -> f64 {
    let ramp = step as f64 / (2 * steps_per_epoch.max(1)) as f64;
    peak * ramp.min(1.0)
}

#[cfg(test)]
mod tests;
