//! BLIP's momentum encoders, queues and soft labels (Li et al. 2021, "Align before fuse", section 3;
//! `models/blip_pretrain.py` of the BLIP release).
//!
//! ```text
//! Momentum::features ──┬─► entries: global batch, then queue
//!                      │            │
//! online features ─────┼─► contrast ┘ with soft labels ─► update of the online parameters
//!                      │                                              │
//!                      └─► Queue::push            Momentum::update ◄──┘
//! ```
//! The release moves the copies at the start of a step, before it takes their features. Here that is
//! the end of the step before, which gives the same copies: at the start of a training they are equal to
//! what they follow. So a step that fails changes nothing.
//!
//! The copies and the queue have no gradient. They are buffers: a checkpoint saves them with the
//! parameters.

mod contrast;
mod queue;
mod teacher;

pub use contrast::{SoftContrast, contrast, hard_targets, soft_cross_entropy_sum};
pub use queue::{Classes, Newest, Queue};
pub(crate) use teacher::ContrastInputs;
pub use teacher::{Buffers, Teacher};

use std::collections::HashMap;

use burn::tensor::Tensor;
use capstan_model::params::{ParamSlice, Role};
use capstan_model::{Network, Param, TokenBatch};
use rayon::prelude::*;

/// Unit features of pictures and of their texts, each `[samples, width]`.
#[derive(Debug, Clone)]
pub struct Features {
    /// Of the pictures.
    pub images: Tensor<2>,
    /// Of the texts.
    pub texts: Tensor<2>,
}

/// Copies of a network's encoders that follow it slowly.
#[derive(Debug)]
pub struct Momentum {
    encoders: Box<dyn Network>,
    rate: f64,
}

/// Parts of a filter that have no momentum copy.
const UNCOPIED: [&str; 2] = ["itm_head.", "temperature"];

impl Momentum {
    /// Copies of the encoders of `online` as they are; `None` if its family has no momentum encoders.
    ///
    /// - `rate`: share of the old value that an update keeps; 0.995 in BLIP's recipe.
    pub fn new(online: &dyn Network, rate: f64) -> Option<Self> {
        let mut encoders = online.blank_encoders()?;
        encoders.assign(Role::Buffer, &|_| true);
        let mut momentum = Self { encoders, rate };
        momentum.follow(online, &|_| true, &|copy, online| {
            copy.copy_from_slice(online);
        });
        Some(momentum)
    }

    /// Moves every copy towards the online parameters: `copy * rate + online * (1 - rate)`.
    pub fn update(&mut self, online: &dyn Network) {
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
        online: &dyn Network,
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
    ///
    /// - `pixels`: `[samples, 3, side, side]`, on any device of the network.
    pub fn features(&self, pixels: Tensor<4>, texts: &TokenBatch) -> Features {
        let space = self.encoders.embed().expect("encoders have a common space");
        let images = self.encoders.encode(pixels.inner());
        Features {
            images: space.image_features(&images),
            texts: space.text_features(texts),
        }
    }

    /// Every stored tensor of the copies with its place in [`Momentum::params`].
    pub fn layout(&self) -> Vec<ParamSlice> {
        self.encoders.layout_of(Role::Buffer)
    }

    /// Number of values of the copies.
    fn len(&self) -> usize {
        let params = self.encoders.params();
        params.iter().map(|param| param.len()).sum()
    }

    /// A copy of all values of the copies. Those of the match head and the temperature are of the
    /// start of the training.
    pub fn params(&self) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.len());
        for param in self.encoders.params() {
            flat.extend(param.floats());
        }
        flat
    }

    /// Goes on from a checkpoint; `false`, and nothing changes, where `params` has another length
    /// than [`Momentum::params`].
    #[must_use]
    pub fn restore(&mut self, params: &[f32]) -> bool {
        if params.len() != self.len() {
            return false;
        }
        let mut left = params;
        for param in self.encoders.params_mut() {
            let (own, rest) = left.split_at(param.len());
            left = rest;
            param.edit(|values| values.copy_from_slice(own));
        }
        true
    }
}

#[cfg(test)]
mod tests;
