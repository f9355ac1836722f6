//! Objectives over the global batch: each rank computes its part of every mean, so that gradients
//! summed over ranks are those of the global batch.
//!
//! ```text
//! own pictures, texts ─► encoders ─► own features ──┐ all-gather, with token ids
//!                                                   ▼
//!                          contrast: own rows of the loss, d loss / d every feature
//!                                                   │ sum over ranks, own slice
//!   surrogate = sum(own features * their gradient) ◄┘
//!             + itm of the pairs whose picture is here / pairs of all ranks
//!             + lm of the own texts / tokens of all ranks
//!   backward ─► flat gradient ── sum over ranks
//! ```
//! The gathered features are leaves: their gradient is computed in closed form and returned to
//! the rank that owns them, where the backward pass through its encoders goes on from it.

pub mod contrast;
mod exchange;
pub mod negatives;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use capstan_collective::RingError;
use capstan_model::{Clip, Med, Memory, TokenBatch};
use capstan_plan::draw::Draws;
use capstan_plan::stage::Objective;

use crate::link::Link;
use crate::network::Network;
use contrast::{Gathered, classes_of, contrast};
use exchange::Share;
use negatives::Negatives;

/// The name of a part of an objective, as metrics have it.
pub fn name(objective: Objective) -> &'static str {
    match objective {
        Objective::Itc => "itc",
        Objective::Itm => "itm",
        Objective::Lm => "lm",
    }
}

/// What is minimised.
#[derive(Debug, Clone)]
pub struct Objectives {
    parts: Vec<Objective>,
    label_smoothing: f64,
    negatives: Draws,
}

/// This rank's slice of a global batch.
#[derive(Debug, Clone)]
pub struct Slice {
    /// The step, a key of draws.
    pub step: u64,
    /// Which samples of the global batch these are.
    pub range: Range<usize>,
    /// Prepared pictures, `[samples, 3, side, side]`.
    pub pixels: Vec<f32>,
    /// Token ids of each sample, unpadded.
    pub tokens: Vec<Vec<u32>>,
}

/// Losses and gradient of the global batch, the same bits on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// With respect to the flat parameters.
    pub flat: Vec<f32>,
    /// Each part of the loss.
    pub losses: BTreeMap<&'static str, f64>,
}

/// This rank's part of a step before ranks are summed.
#[derive(Default)]
struct Part {
    /// The scalar to go backward from.
    surrogate: Option<Tensor<1>>,
    losses: BTreeMap<&'static str, f64>,
    /// Gradient of the scale's parameter, which no tensor carries.
    scale: f64,
}

impl Part {
    fn add(&mut self, term: Tensor<1>) {
        self.surrogate = Some(match self.surrogate.take() {
            Some(sum) => sum + term,
            None => term,
        });
    }
}

impl Objectives {
    /// - `parts`: each at most once; for CLIP `itc` alone.
    /// - `label_smoothing`: of LM.
    /// - `seed`: of the hard negatives.
    pub fn new(parts: &[Objective], label_smoothing: f64, seed: u64) -> Self {
        Self {
            parts: parts.to_vec(),
            label_smoothing,
            negatives: Draws::new(seed, "hard negatives"),
        }
    }

    /// Names of the parts, in the order of the settings.
    pub fn names(&self) -> Vec<&'static str> {
        self.parts.iter().map(|part| name(*part)).collect()
    }

    fn has(&self, part: Objective) -> bool {
        self.parts.contains(&part)
    }

    /// Gradient and losses of the global batch of which `slice` is this rank's.
    ///
    /// - `params`: the flat parameters that `network` holds.
    ///
    /// # Errors
    /// What the ring says.
    pub fn gradient(
        &self,
        network: &Network,
        params: &[f32],
        slice: &Slice,
        link: &mut Link<'_>,
    ) -> Result<Gradient, RingError> {
        let part = match network {
            Network::Clip(clip) => self.clip(network, clip, params, slice, link)?,
            Network::Blip(med) => self.blip(network, med, params, slice, link)?,
        };
        let mut flat = match part.surrogate {
            Some(surrogate) => network.model().gradients(&mut surrogate.backward()),
            None => vec![0.0; params.len()],
        };
        if let Some(at) = network.scale_at() {
            flat[at] += part.scale as f32;
        }
        // The losses travel behind the gradient: one message for both.
        flat.extend(self.names().iter().map(|name| part.losses[name] as f32));
        link.all_reduce_sum(&mut flat)?;
        let losses = flat.split_off(params.len());
        let losses = self
            .names()
            .into_iter()
            .zip(losses.into_iter().map(f64::from))
            .collect();
        Ok(Gradient { flat, losses })
    }

    fn clip(
        &self,
        network: &Network,
        clip: &Clip,
        params: &[f32],
        slice: &Slice,
        link: &mut Link<'_>,
    ) -> Result<Part, RingError> {
        let texts = TokenBatch::new(&slice.tokens, network.pad());
        let own = Own {
            images: clip.image_features(pixels(network, slice)),
            texts: clip.text_features(&texts),
        };
        let global = own.share(slice).gather(link)?;
        // CLIP takes every other text of the batch for a negative, equal ones too.
        let classes: Vec<usize> = (0..global.tokens.len()).collect();
        let scale = network.scale(params[network.scale_at().expect("CLIP has a logit scale")]);
        let gathered = own.gathered(&global, scale.factor);
        let mut part = Part::default();
        let logits = gathered.logits();
        own.contrast(&gathered, &logits, &classes, slice, &mut part, link)?;
        part.scale *= scale.slope;
        Ok(part)
    }

    fn blip(
        &self,
        network: &Network,
        med: &Med,
        params: &[f32],
        slice: &Slice,
        link: &mut Link<'_>,
    ) -> Result<Part, RingError> {
        let (contrasts, matches) = (self.has(Objective::Itc), self.has(Objective::Itm));
        let texts = TokenBatch::new(&slice.tokens, network.pad());
        let images = med.image_embeds(pixels(network, slice));
        let own = (contrasts || matches).then(|| Own {
            images: med.image_features(&images),
            texts: med.text_features(&texts),
        });
        let tokens_alone = || Share {
            tokens: slice.tokens.clone(),
            ..Share::default()
        };
        let global = own
            .as_ref()
            .map_or_else(tokens_alone, |own| own.share(slice))
            .gather(link)?;
        let memory = (matches || self.has(Objective::Lm)).then(|| med.memory(&images));
        let mut part = Part::default();
        if let Some(own) = &own {
            let classes = classes_of(&global.tokens);
            let scale =
                network.scale(params[network.scale_at().expect("a filter has a temperature")]);
            let gathered = own.gathered(&global, scale.factor);
            let logits = gathered.logits();
            if contrasts {
                own.contrast(&gathered, &logits, &classes, slice, &mut part, link)?;
                part.scale *= scale.slope;
            }
            if let Some(memory) = memory.as_ref().filter(|_| matches) {
                let drawn = Negatives::draw(&self.negatives, slice.step, &logits, &classes);
                itm(
                    med,
                    memory,
                    (slice, &global, &drawn),
                    network.pad(),
                    &mut part,
                );
            }
        }
        if let Some(memory) = memory.as_ref().filter(|_| self.has(Objective::Lm)) {
            let predicted: usize = global.tokens.iter().map(|row| row.len() - 1).sum();
            let pictures: Vec<usize> = (0..slice.range.len()).collect();
            let loss = med.lm_loss(memory, &texts, &pictures, self.label_smoothing);
            let mean = loss.sum / predicted as f64;
            part.losses.insert("lm", scalar(&mean));
            part.add(mean);
        }
        Ok(part)
    }
}

/// This rank's part of image-text matching: the pairs whose picture it holds.
fn itm(
    med: &Med,
    memory: &Memory,
    (slice, global, drawn): (&Slice, &Share, &Negatives),
    pad: u32,
    part: &mut Part,
) {
    let (mut rows, mut pictures, mut classes): (Vec<&[u32]>, Vec<usize>, Vec<u32>) =
        Default::default();
    let mut pair = |text: usize, image: usize, class: u32| {
        rows.push(&global.tokens[text]);
        pictures.push(image - slice.range.start);
        classes.push(class);
    };
    for image in slice.range.clone() {
        pair(image, image, 1);
    }
    for image in slice.range.clone() {
        if let Some(text) = drawn.texts[image] {
            pair(text, image, 0);
        }
    }
    for (text, image) in drawn.images.iter().enumerate() {
        if let Some(image) = image.filter(|image| slice.range.contains(image)) {
            pair(text, image, 0);
        }
    }
    let logits = med.itm_logits(memory, &TokenBatch::new(&rows, pad), &pictures);
    let mean = Med::cross_entropy_sum(logits, &classes) / drawn.pairs() as f64;
    part.losses.insert("itm", scalar(&mean));
    part.add(mean);
}

/// Features of this rank's samples, attached to their encoders.
struct Own {
    images: Tensor<2>,
    texts: Tensor<2>,
}

impl Own {
    fn share(&self, slice: &Slice) -> Share {
        Share {
            images: values(&self.images),
            texts: values(&self.texts),
            tokens: slice.tokens.clone(),
        }
    }

    fn gathered<'a>(&self, global: &'a Share, scale: f32) -> Gathered<'a> {
        let width = self.images.dims()[1];
        Gathered {
            images: &global.images,
            texts: &global.texts,
            width,
            scale,
        }
    }

    /// Adds this rank's rows of the contrast, and to the surrogate what all ranks ask of the
    /// features that are this rank's.
    fn contrast(
        &self,
        gathered: &Gathered<'_>,
        logits: &[f32],
        classes: &[usize],
        slice: &Slice,
        part: &mut Part,
        link: &mut Link<'_>,
    ) -> Result<(), RingError> {
        let rows = contrast(gathered, logits, classes, slice.range.clone());
        let (width, batch) = (gathered.width, gathered.batch());
        let mut asked = rows.images;
        asked.extend(rows.texts);
        link.all_reduce_sum(&mut asked)?;
        let (images, texts) = asked.split_at(batch * width);
        let of_slice = slice.range.start * width..slice.range.end * width;
        for (features, asked) in [(&self.images, images), (&self.texts, texts)] {
            let asked = TensorData::new(asked[of_slice.clone()].to_vec(), features.dims());
            let asked = Tensor::<2>::from_data(asked, &features.device());
            part.add((features.clone() * asked).sum());
        }
        part.losses.insert("itc", rows.loss);
        part.scale = rows.scale;
        Ok(())
    }
}

fn pixels(network: &Network, slice: &Slice) -> Tensor<4> {
    let side = network.image_size();
    let shape = [slice.range.len(), 3, side, side];
    Tensor::from_data(
        TensorData::new(slice.pixels.clone(), shape),
        network.model().device(),
    )
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("features are f32")
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(
        tensor
            .to_data()
            .try_to_vec::<f32>()
            .expect("losses are f32")[0],
    )
}
