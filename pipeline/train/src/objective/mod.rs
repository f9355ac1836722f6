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
//! the rank that owns them, where the backward pass through its encoders goes on from it. So a rank's
//! samples can be computed in chunks: features of all, then forward and backward chunk by chunk.
//!
//! With a [`Teacher`] the own features are contrasted with gathered momentum features and those of the
//! queue. These have no gradient, so the gradient of the own ones is complete on their rank.

pub mod contrast;
mod dropout;
mod exchange;
mod global;
pub mod negatives;
mod pairs;
pub mod positives;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use capstan_collective::RingError;
use capstan_model::{ImageEmbeds, Network, TokenBatch};
use capstan_plan::draw::Draws;
use capstan_plan::stage::{self, Objective};
use rayon::prelude::*;

use crate::link::Link;
use crate::momentum::{Newest, Teacher};
use crate::network;
use dropout::{Dropout, Pass};
use exchange::Share;
use global::Global;
use pairs::Pairs;

/// The name of a part of an objective, as metrics have it.
pub fn name(objective: Objective) -> &'static str {
    match objective {
        Objective::Itc => "itc",
        Objective::Itm => "itm",
        Objective::Lm => "lm",
    }
}

/// What is minimised, with the teacher of the contrast if it has one.
#[derive(Debug)]
pub struct Objectives {
    parts: Vec<Objective>,
    positives: stage::Positives,
    label_smoothing: f64,
    prompt_tokens: usize,
    chunk: Option<usize>,
    negatives: Draws,
    dropout: Dropout,
    teacher: Option<Teacher>,
}

/// This rank's part of each loss, by name.
type Losses = BTreeMap<&'static str, f64>;

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
    /// What [`Objectives::follow`] takes once the update is applied; `None` without a teacher.
    pub newest: Option<Newest>,
}

impl Objectives {
    /// - `parts`: each at most once, and none that the network has no head for.
    /// - `positives`: which samples of a batch belong together.
    /// - `label_smoothing`, `prompt_tokens`: of LM; the first tokens of every text that are read and
    ///   not learned, the special one included.
    /// - `seed`: of the hard negatives, and of dropout.
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
            chunk: None,
            negatives: Draws::new(seed, "hard negatives"),
            dropout: Dropout::new(0.0, seed),
            teacher: None,
        }
    }

    /// Computes the samples of a rank in chunks of this many, one after the other. The gradient is
    /// that of the whole batch: features are computed first, then the gradient chunk by chunk (Gao
    /// et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup").
    pub fn with_chunk(self, chunk: Option<usize>) -> Self {
        Self { chunk, ..self }
    }

    /// Drops this share of the values of the text transformer.
    pub fn with_dropout(self, rate: f64) -> Self {
        let dropout = self.dropout.with_rate(rate);
        Self { dropout, ..self }
    }

    /// Contrasts with momentum features, by labels that are partly the teacher's.
    pub fn with_teacher(self, teacher: Option<Teacher>) -> Self {
        Self { teacher, ..self }
    }

    /// The teacher, if there is one.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    /// The teacher, to save and to restore it.
    pub(crate) fn teacher_mut(&mut self) -> Option<&mut Teacher> {
        self.teacher.as_mut()
    }

    /// Ends a step whose update is applied: the teacher follows the updated network.
    ///
    /// - `newest`: of the step's [`Gradient`].
    pub fn follow(&mut self, network: &dyn Network, newest: Option<&Newest>) {
        if let Some((teacher, newest)) = self.teacher.as_mut().zip(newest) {
            teacher.follow(network, newest);
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
        let mut losses = Losses::new();
        let chunks = self.chunks(slice);
        // One chunk keeps its graph; of several the features are computed now, and again with a
        // graph when it is known what is asked of them.
        let mut kept = None;
        let mut own = Share {
            tokens: slice.tokens.clone(),
            pictures: slice.pictures.clone(),
            ..Share::default()
        };
        for chunk in &chunks {
            let encoded = self.encode(network, slice, chunk.clone());
            let [images, texts] = encoded.features();
            own.images.extend(images);
            own.texts.extend(texts);
            if let Some(teacher) = &self.teacher {
                let pixels = pixels(network, slice, chunk.clone());
                let texts = self.dropped(&encoded.texts, Pass::Momentum, slice, chunk.clone());
                let features = teacher.features(pixels, &texts);
                for (all, own) in own.copies.iter_mut().zip(features) {
                    all.extend(own);
                }
            }
            kept = (chunks.len() == 1).then_some(encoded);
        }
        let mut global = self.global(network, scale, (slice, &own), &mut losses, link)?;
        let newest = global.newest.take();
        let mut flat = Vec::new();
        for chunk in chunks {
            let encoded = kept
                .take()
                .unwrap_or_else(|| self.encode(network, slice, chunk.clone()));
            let surrogate = self.surrogate(network, slice, chunk, encoded, &global, &mut losses);
            let gradient = network.gradients(&mut surrogate.backward());
            match flat.is_empty() {
                true => flat = gradient,
                false => add(&mut flat, &gradient),
            }
        }
        if let Some(place) = scale.and_then(|scale| scale.place) {
            flat[place] += global.scale as f32;
        }
        let trained = flat.len();
        // The losses travel behind the gradient: one message for both.
        flat.extend(self.names().iter().map(|name| losses[name] as f32));
        link.all_reduce_sum(&mut flat)?;
        let losses = flat.split_off(trained);
        let losses = self
            .names()
            .into_iter()
            .zip(losses.into_iter().map(f64::from))
            .collect();
        Ok(Gradient {
            flat,
            losses,
            newest,
        })
    }

    /// This rank's samples in the parts that are computed one after the other, by their places in
    /// the slice.
    fn chunks(&self, slice: &Slice) -> Vec<Range<usize>> {
        let samples = slice.range.len();
        let size = self.chunk.unwrap_or(samples).max(1);
        let starts = (0..samples).step_by(size);
        starts
            .map(|start| start..(start + size).min(samples))
            .collect()
    }

    fn contrasts(&self) -> bool {
        self.has(Objective::Itc) || self.has(Objective::Itm)
    }

    fn encode(&self, network: &dyn Network, slice: &Slice, chunk: Range<usize>) -> Encoded {
        let texts = TokenBatch::new(&slice.tokens[chunk.clone()], network.pad());
        let images = network.encode(pixels(network, slice, chunk.clone()));
        let own = self.contrasts().then(|| {
            let space = network.embed().expect("a head for the contrast");
            let texts = self.dropped(&texts, Pass::Text, slice, chunk);
            [space.image_features(&images), space.text_features(&texts)]
        });
        Encoded { images, texts, own }
    }

    /// The texts of a chunk of this rank's samples with the dropout of a pass.
    fn dropped(
        &self,
        texts: &TokenBatch,
        pass: Pass,
        slice: &Slice,
        chunk: Range<usize>,
    ) -> TokenBatch {
        let samples = chunk.map(|sample| [slice.range.start + sample]);
        self.dropout
            .apply(texts.clone(), (slice.step, pass), samples)
    }

    /// The position of the first token that LM predicts: never the first token, nor one of a prompt.
    fn first_predicted(&self) -> usize {
        self.prompt_tokens.max(1)
    }

    /// The scalar to go backward from for a chunk of this rank's samples.
    fn surrogate(
        &self,
        network: &dyn Network,
        slice: &Slice,
        chunk: Range<usize>,
        encoded: Encoded,
        global: &Global,
        losses: &mut Losses,
    ) -> Tensor<1> {
        let mut terms = Vec::new();
        if let Some((own, asked)) = encoded.own.as_ref().zip(global.asked.as_ref()) {
            for (features, asked) in own.iter().zip(asked) {
                let [_, width] = features.dims();
                let asked = asked[chunk.start * width..chunk.end * width].to_vec();
                let asked = TensorData::new(asked, features.dims());
                let asked = Tensor::<2>::from_data(asked, &features.device());
                terms.push((features.clone() * asked).sum());
            }
        }
        let matching = global.negatives.as_ref().map(|negatives| {
            let head = network.matching().expect("a head for matching");
            (head, negatives)
        });
        let writer = self
            .has(Objective::Lm)
            .then(|| network.generator().expect("a decoder"));
        let memory = match (matching, writer) {
            (Some((head, _)), _) => Some(head.memory(&encoded.images)),
            (None, Some(writer)) => Some(writer.memory(&encoded.images)),
            (None, None) => None,
        };
        if let Some(((head, negatives), memory)) = matching.zip(memory.as_ref()) {
            let start = slice.range.start;
            let images = start + chunk.start..start + chunk.end;
            let pairs = Pairs::new(negatives, images);
            let texts = pairs.texts(&global.samples, network.pad());
            let texts = self
                .dropout
                .apply(texts, (slice.step, Pass::Match), pairs.keys());
            let mean = pairs.loss(head, memory, &texts);
            *losses.entry("itm").or_default() += scalar(&mean);
            terms.push(mean);
        }
        if let Some((writer, memory)) = writer.zip(memory.as_ref()) {
            let pictures: Vec<usize> = (0..chunk.len()).collect();
            let first = self.first_predicted();
            let counts = |_: usize, position: usize| position >= first;
            let smoothing = self.label_smoothing;
            let texts = self.dropped(&encoded.texts, Pass::Decode, slice, chunk);
            let loss = writer.lm_loss_of(memory, &texts, &pictures, smoothing, &counts);
            let mean = loss.sum / global.predicted as f64;
            *losses.entry("lm").or_default() += scalar(&mean);
            terms.push(mean);
        }
        let sum = terms.into_iter().reduce(|sum, term| sum + term);
        sum.expect("an objective has a term")
    }
}

/// A chunk of this rank's samples, attached to the encoders.
struct Encoded {
    images: ImageEmbeds,
    texts: TokenBatch,
    /// Features of pictures and of texts, where the objective contrasts.
    own: Option<[Tensor<2>; 2]>,
}

impl Encoded {
    /// The values of the features; empty where there are none.
    fn features(&self) -> [Vec<f32>; 2] {
        match &self.own {
            Some(own) => own.each_ref().map(values),
            None => Default::default(),
        }
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.par_iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}

fn pixels(network: &dyn Network, slice: &Slice, chunk: Range<usize>) -> Tensor<4> {
    let side = network.image_size();
    let floats = 3 * side * side;
    let shape = [chunk.len(), 3, side, side];
    let pixels = slice.pixels[chunk.start * floats..chunk.end * floats].to_vec();
    Tensor::from_data(TensorData::new(pixels, shape), network.device())
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
