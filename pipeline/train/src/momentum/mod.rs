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

use std::collections::HashMap;

use burn::tensor::Tensor;
use capstan_model::{Embed, Med, MedParts, Model, Network, Param, TokenBatch};
use rayon::prelude::*;

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
        let encoders = Med::new(online.config().clone(), MedParts::Filter, &device);
        let mut momentum = Self { encoders, rate };
        momentum.follow(online, &|_| true, &|copy, online| {
            copy.copy_from_slice(online);
        });
        momentum
    }

    /// Moves every copy towards the online parameters: `copy * rate + online * (1 - rate)`. BLIP does
    /// so before it takes the momentum features of a step.
    pub fn update(&mut self, online: &Med) {
        let (keep, take) = (self.rate as f32, (1.0 - self.rate) as f32);
        let copied = |name: &str| !UNCOPIED.iter().any(|part| name.starts_with(part));
        self.follow(online, &copied, &|copies, online| {
            copies
                .par_iter_mut()
                .zip(online)
                .for_each(|(copy, online)| *copy = *copy * keep + online * take);
        });
    }

    /// Changes each copy whose name is `wanted` with its online parameter: `change(copy, online)`.
    fn follow(
        &mut self,
        online: &Med,
        wanted: &dyn Fn(&str) -> bool,
        change: &dyn Fn(&mut [f32], &[f32]),
    ) {
        let online: HashMap<&str, &Param> = online
            .params()
            .into_iter()
            .map(|param| (&*param.parts()[0].name, param))
            .collect();
        for copy in self.encoders.params_mut() {
            let name = copy.parts()[0].name.clone();
            if wanted(&name) {
                let online = online[&*name].floats();
                copy.edit(|values| change(values, &online));
            }
        }
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

    /// A copy of all values of the copies, in the order of [`Momentum::encoders`]'s layout.
    pub fn params(&self) -> Vec<f32> {
        self.encoders.to_flat()
    }

    /// Goes on from a checkpoint.
    ///
    /// # Panics
    /// When `params` has another length than [`Momentum::params`].
    pub fn restore(&mut self, params: &[f32]) {
        self.encoders.load_flat(params);
    }
}

/// The share of soft labels at a step: it rises to `peak` over two epochs.
pub fn soft_label_share(peak: f64, step: u64, steps_per_epoch: u64) -> f64 {
    let ramp = step as f64 / (2 * steps_per_epoch.max(1)) as f64;
    peak * ramp.min(1.0)
}

#[cfg(test)]
mod tests;
