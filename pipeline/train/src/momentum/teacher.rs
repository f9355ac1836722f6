//! What the contrast learns from, and what a checkpoint holds of it.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use capstan_model::{Network, TokenBatch};
use capstan_plan::stage;

use super::{Features, Momentum, Newest, Queue, contrast, hard_targets};
use crate::TrainError;

/// Momentum copies of the encoders, the queue of their features, and the share of their labels.
#[derive(Debug)]
pub struct Teacher {
    copies: Momentum,
    queue: Queue,
    alpha: f64,
    ramp_steps: u64,
}

/// What changes of a teacher from step to step.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffers {
    /// All values of the momentum copies.
    pub copies: Vec<f32>,
    /// Features of past samples.
    pub queue: Queue,
}

/// The samples of a rank that are contrasted with momentum features.
pub(crate) struct ContrastInputs<'a> {
    pub(crate) step: u64,
    /// Which samples of the global batch are this rank's.
    pub(crate) own: Range<usize>,
    /// Image features of the global batch by the network, `[batch, width]`.
    pub(crate) images: &'a [f32],
    /// Text features of the global batch by the network, `[batch, width]`.
    pub(crate) texts: &'a [f32],
    /// Features of the global batch by the copies.
    pub(crate) newest: &'a Newest,
    /// Whether a sample, counted from the rank's first, and an entry are of one class; entries are
    /// the samples of the global batch, then those of the queue.
    pub(crate) positive: &'a dyn Fn(usize, usize) -> bool,
    /// What cosines are multiplied with.
    pub(crate) factor: f32,
}

/// One rank's part of the contrast with momentum features, and its gradient.
#[derive(Debug)]
pub(crate) struct ContrastGradient {
    /// The part; the sum over ranks is the mean over the global batch.
    pub(crate) loss: f64,
    /// Gradient with respect to this rank's features of pictures and of texts, `[samples, width]`.
    pub(crate) own: [Vec<f32>; 2],
    /// Gradient with respect to the factor on cosines.
    pub(crate) factor: f64,
}

impl Teacher {
    /// - `alpha`: largest share of the copies' similarities in the labels.
    /// - `ramp_steps`: steps over which the share rises from 0; 0 for the largest from the start.
    pub fn new(copies: Momentum, queue: Queue, alpha: f64, ramp_steps: u64) -> Self {
        Self {
            copies,
            queue,
            alpha,
            ramp_steps,
        }
    }

    /// The teacher at the start of a training, if its settings ask for one: copies of the encoders as
    /// they are, and a queue of drawn features.
    ///
    /// - `samples`: of the data.
    ///
    /// # Errors
    /// [`TrainError::Settings`] if the network's family has no momentum encoders.
    pub fn at_start(
        online: &dyn Network,
        config: &stage::Train,
        samples: usize,
        seed: u64,
    ) -> Result<Option<Self>, TrainError> {
        let Some(settings) = &config.momentum else {
            return Ok(None);
        };
        let copies = Momentum::new(online, settings.rate);
        let (Some(copies), Some(space)) = (copies, online.embed()) else {
            let role = online.role();
            return Err(TrainError::Settings {
                field: "momentum",
                problem: format!("a {role} has no momentum encoders: leave it out"),
            });
        };
        let queue = Queue::drawn(settings.queue, space.width(), seed);
        let ramp_steps = settings.ramp_steps(samples, config.global_batch);
        Ok(Some(Self::new(copies, queue, settings.alpha, ramp_steps)))
    }

    /// The momentum copies.
    pub fn copies(&self) -> &Momentum {
        &self.copies
    }

    /// Features of past samples.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The share of soft labels at a step.
    pub fn soft_share(&self, step: u64) -> f64 {
        match self.ramp_steps {
            0 => self.alpha,
            steps => self.alpha * (step as f64 / steps as f64).min(1.0),
        }
    }

    /// Momentum features of a rank's pictures and texts, each `[samples, width]`.
    pub(crate) fn features(&self, pixels: Tensor<4>, texts: &TokenBatch) -> [Vec<f32>; 2] {
        let features = self.copies.features(pixels, texts);
        [features.images, features.texts].map(|side| floats(&side))
    }

    /// The contrast of a rank's samples with the momentum features of the global batch and of the
    /// queue.
    ///
    /// - `device`: an autodiff one.
    pub(crate) fn contrast(
        &self,
        samples: &ContrastInputs<'_>,
        device: &Device,
    ) -> ContrastGradient {
        let ContrastInputs { own, newest, .. } = samples;
        let (width, batch) = (self.queue.width(), newest.classes.len());
        let part = own.start * width..own.end * width;
        let leaf = |side: &[f32]| matrix(&side[part.clone()], width, device).require_grad();
        let online = Features {
            images: leaf(samples.images),
            texts: leaf(samples.texts),
        };
        let inner = device.clone().inner();
        let copies = |range: Range<usize>| Features {
            images: matrix(&newest.images[range.clone()], width, &inner),
            texts: matrix(&newest.texts[range], width, &inner),
        };
        let own_copies = copies(part.clone());
        let entries = batch + self.queue.capacity();
        let hard = hard_targets(own.len(), entries, samples.positive, &own_copies);
        let temperature = Tensor::<1>::from_data([1.0 / samples.factor], device).require_grad();
        let found = contrast(
            &online,
            &own_copies,
            &self.queue.entries(&copies(0..batch * width)),
            temperature.clone(),
            &hard,
            self.soft_share(samples.step),
            batch,
        );
        let mut gradients = found.loss.backward();
        let of_loss = "the loss depends on it";
        let slope = temperature.grad_remove(&mut gradients).expect(of_loss);
        let mut own = |side: Tensor<2>| floats(&side.grad_remove(&mut gradients).expect(of_loss));
        ContrastGradient {
            own: [own(online.images), own(online.texts)],
            loss: f64::from(floats(&found.loss)[0]),
            factor: -f64::from(floats(&slope)[0]) / f64::from(samples.factor).powi(2),
        }
    }

    /// Ends a step: the copies follow the updated network, and the queue takes the batch.
    pub fn follow(&mut self, online: &dyn Network, newest: &Newest) {
        self.copies.update(online);
        self.queue.push(newest);
    }

    /// The buffers, for a checkpoint. The queue is taken out; [`Teacher::put_back`] returns it.
    pub fn take_buffers(&mut self) -> Buffers {
        Buffers {
            copies: self.copies.params(),
            queue: std::mem::take(&mut self.queue),
        }
    }

    /// Returns the queue of [`Teacher::take_buffers`].
    pub fn put_back(&mut self, buffers: Buffers) {
        self.queue = buffers.queue;
    }

    /// Goes on from a checkpoint; `false`, and nothing changes, where the buffers have other sizes.
    #[must_use]
    pub fn restore(&mut self, buffers: Buffers) -> bool {
        let size = |queue: &Queue| (queue.capacity(), queue.width());
        if size(&buffers.queue) != size(&self.queue) || !self.copies.restore(&buffers.copies) {
            return false;
        }
        self.queue = buffers.queue;
        true
    }
}

fn matrix(values: &[f32], width: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / width, width];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("features are f32")
}
