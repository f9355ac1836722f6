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
pub mod positives;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use capstan_collective::RingError;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{Embed, ImageEmbeds, Match, Memory, Network, TokenBatch};
use capstan_plan::draw::Draws;
use capstan_plan::stage::{self, Objective};

use crate::link::Link;
use crate::network::{self, ScaleParameter};
use contrast::{Gathered, contrast};
use exchange::Share;
use negatives::Negatives;
use positives::Positives;

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
    positives: stage::Positives,
    label_smoothing: f64,
    prompt_tokens: usize,
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
    /// Picture of each sample: a number that is the same on every rank.
    pub pictures: Vec<u32>,
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
    /// - `parts`: each at most once, and none that the network has no head for.
    /// - `positives`: which samples of a batch belong together.
    /// - `label_smoothing`, `prompt_tokens`: of LM; the first tokens of every text that are read and
    ///   not learned, the special one included.
    /// - `seed`: of the hard negatives.
    pub fn new(
        parts: &[Objective],
        positives: stage::Positives,
        (label_smoothing, prompt_tokens): (f64, usize),
        seed: u64,
    ) -> Self {
        Self {
            parts: parts.to_vec(),
            positives,
            label_smoothing,
            prompt_tokens,
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
    /// # Errors
    /// What the ring says.
    ///
    /// # Panics
    /// When the network lacks the head of an objective.
    pub fn gradient(
        &self,
        network: &dyn Network,
        slice: &Slice,
        link: &mut Link<'_>,
    ) -> Result<Gradient, RingError> {
        let scale = network::scale(network);
        let part = self.part(network, scale, slice, link)?;
        let mut flat = match part.surrogate {
            Some(surrogate) => network.gradients(&mut surrogate.backward()),
            None => vec![0.0; network.num_trained()],
        };
        if let Some(place) = scale.and_then(|scale| scale.place) {
            flat[place] += part.scale as f32;
        }
        let trained = flat.len();
        // The losses travel behind the gradient: one message for both.
        flat.extend(self.names().iter().map(|name| part.losses[name] as f32));
        link.all_reduce_sum(&mut flat)?;
        let losses = flat.split_off(trained);
        let losses = self
            .names()
            .into_iter()
            .zip(losses.into_iter().map(f64::from))
            .collect();
        Ok(Gradient { flat, losses })
    }

    /// This rank's part of every objective.
    fn part(
        &self,
        network: &dyn Network,
        scale: Option<ScaleParameter>,
        slice: &Slice,
        link: &mut Link<'_>,
    ) -> Result<Part, RingError> {
        let texts = TokenBatch::new(&slice.tokens, network.pad());
        let images = network.encode(pixels(network, slice));
        let contrasts = self.has(Objective::Itc) || self.has(Objective::Itm);
        let space = contrasts.then(|| network.embed().expect("a head for the contrast"));
        let own = space.map(|space| Own::new(space, &images, &texts));
        let share = own.as_ref().map(|own| own.share(slice));
        let share = share.unwrap_or_else(|| Share {
            tokens: slice.tokens.clone(),
            pictures: slice.pictures.clone(),
            ..Share::default()
        });
        let global = share.gather(link)?;
        let matching = self
            .has(Objective::Itm)
            .then(|| network.matching().expect("a head for matching"));
        let writer = self
            .has(Objective::Lm)
            .then(|| network.generator().expect("a decoder"));
        let memory = match (matching, writer) {
            (Some(head), _) => Some(head.memory(&images)),
            (None, Some(writer)) => Some(writer.memory(&images)),
            (None, None) => None,
        };
        let mut part = Part::default();
        if let Some(own) = &own {
            let positives = Positives::new(self.positives, &global.pictures, &global.tokens);
            let scale = scale.expect("a contrast has a scale");
            let gathered = own.gathered(&global, scale.rule.factor(scale.value));
            let logits = gathered.logits();
            if self.has(Objective::Itc) {
                own.contrast(&gathered, &logits, &positives, slice, &mut part, link)?;
                part.scale *= scale.rule.slope(scale.value);
            }
            if let Some((head, memory)) = matching.zip(memory.as_ref()) {
                let drawn = Negatives::draw(&self.negatives, slice.step, &logits, &positives);
                let pad = network.pad();
                itm(head, memory, (slice, &global, &drawn), pad, &mut part);
            }
        }
        if let Some((writer, memory)) = writer.zip(memory.as_ref()) {
            // The first token is never predicted, nor are those of a prompt.
            let first = self.prompt_tokens.max(1);
            let of_row = |row: &Vec<u32>| row.len().saturating_sub(first);
            let predicted: usize = global.tokens.iter().map(of_row).sum();
            let pictures: Vec<usize> = (0..slice.range.len()).collect();
            let counts = |_: usize, position: usize| position >= first;
            let smoothing = self.label_smoothing;
            let loss = writer.lm_loss_of(memory, &texts, &pictures, smoothing, &counts);
            let mean = loss.sum / predicted as f64;
            part.losses.insert("lm", scalar(&mean));
            part.add(mean);
        }
        Ok(part)
    }
}

/// This rank's part of image-text matching: the pairs whose picture it holds.
fn itm(
    head: &dyn Match,
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
    let logits = head.match_logits(memory, &TokenBatch::new(&rows, pad), &pictures);
    let mean = cross_entropy_sum(logits, &classes, 0.0) / drawn.pairs() as f64;
    part.losses.insert("itm", scalar(&mean));
    part.add(mean);
}

/// Features of this rank's samples, attached to their encoders.
struct Own {
    images: Tensor<2>,
    texts: Tensor<2>,
}

impl Own {
    fn new(space: &dyn Embed, images: &ImageEmbeds, texts: &TokenBatch) -> Self {
        Self {
            images: space.image_features(images),
            texts: space.text_features(texts),
        }
    }

    fn share(&self, slice: &Slice) -> Share {
        Share {
            images: values(&self.images),
            texts: values(&self.texts),
            tokens: slice.tokens.clone(),
            pictures: slice.pictures.clone(),
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
        positives: &Positives,
        slice: &Slice,
        part: &mut Part,
        link: &mut Link<'_>,
    ) -> Result<(), RingError> {
        let rows = contrast(gathered, logits, positives, slice.range.clone());
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

fn pixels(network: &dyn Network, slice: &Slice) -> Tensor<4> {
    let side = network.image_size();
    let shape = [slice.range.len(), 3, side, side];
    Tensor::from_data(
        TensorData::new(slice.pixels.clone(), shape),
        network.device(),
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
