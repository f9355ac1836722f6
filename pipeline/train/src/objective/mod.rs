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

pub mod contrast;
mod exchange;
pub mod negatives;
pub mod positives;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use capstan_collective::RingError;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{ImageEmbeds, Match, Memory, Network, TokenBatch};
use capstan_plan::draw::Draws;
use capstan_plan::stage::{self, Objective};
use rayon::prelude::*;

use crate::link::Link;
use crate::network::{self, ScaleParameter};
use contrast::{Contrast, Gathered, contrast};
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
    chunk: Option<usize>,
    negatives: Draws,
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
}

/// What every chunk of a rank's samples needs of the global batch.
struct Global {
    samples: Share,
    /// What all ranks ask of this rank's features: gradients of the contrast, `[samples, width]`.
    asked: Option<[Vec<f32>; 2]>,
    negatives: Option<Negatives>,
    /// Tokens that LM predicts.
    predicted: usize,
    /// Gradient of the scale's parameter, which no tensor carries.
    scale: f64,
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
            chunk: None,
            negatives: Draws::new(seed, "hard negatives"),
        }
    }

    /// Computes the samples of a rank in chunks of this many, one after the other. The gradient is
    /// that of the whole batch: features are computed first, then the gradient chunk by chunk (Gao
    /// et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup").
    pub fn with_chunk(self, chunk: Option<usize>) -> Self {
        Self { chunk, ..self }
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
        let (mut kept, mut features) = (None, [Vec::new(), Vec::new()]);
        for chunk in &chunks {
            let encoded = self.encode(network, slice, chunk.clone());
            for (all, own) in features.iter_mut().zip(encoded.features()) {
                all.extend(own);
            }
            kept = (chunks.len() == 1).then_some(encoded);
        }
        let global = self.global(scale, slice, features, &mut losses, link)?;
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
        Ok(Gradient { flat, losses })
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
        let images = network.encode(pixels(network, slice, chunk));
        let own = self.contrasts().then(|| {
            let space = network.embed().expect("a head for the contrast");
            [space.image_features(&images), space.text_features(&texts)]
        });
        Encoded { images, texts, own }
    }

    /// Meets the other ranks: what their samples ask of this rank's.
    fn global(
        &self,
        scale: Option<ScaleParameter>,
        slice: &Slice,
        [images, texts]: [Vec<f32>; 2],
        losses: &mut Losses,
        link: &mut Link<'_>,
    ) -> Result<Global, RingError> {
        let width = images.len() / slice.range.len().max(1);
        let share = Share {
            images,
            texts,
            tokens: slice.tokens.clone(),
            pictures: slice.pictures.clone(),
        };
        let samples = share.gather(link)?;
        let first = self.first_predicted();
        let of_row = |row: &Vec<u32>| row.len().saturating_sub(first);
        let mut global = Global {
            asked: None,
            negatives: None,
            predicted: samples.tokens.iter().map(of_row).sum(),
            scale: 0.0,
            samples,
        };
        if !self.contrasts() {
            return Ok(global);
        }
        let scale = scale.expect("a contrast has a scale");
        let samples = &global.samples;
        let positives = Positives::new(self.positives, &samples.pictures, &samples.tokens);
        let gathered = Gathered {
            images: &samples.images,
            texts: &samples.texts,
            width,
            scale: scale.rule.factor(scale.value),
        };
        let logits = gathered.logits();
        if self.has(Objective::Itc) {
            let rows = contrast(&gathered, &logits, &positives, slice.range.clone());
            losses.insert("itc", rows.loss);
            global.scale = rows.scale * scale.rule.slope(scale.value);
            global.asked = Some(asked(rows, slice, width, link)?);
        }
        if self.has(Objective::Itm) {
            let draws = &self.negatives;
            global.negatives = Some(Negatives::draw(draws, slice.step, &logits, &positives));
        }
        Ok(global)
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
            let mean = pairs.loss(head, memory, &global.samples, network.pad());
            *losses.entry("itm").or_default() += scalar(&mean);
            terms.push(mean);
        }
        if let Some((writer, memory)) = writer.zip(memory.as_ref()) {
            let pictures: Vec<usize> = (0..chunk.len()).collect();
            let first = self.first_predicted();
            let counts = |_: usize, position: usize| position >= first;
            let smoothing = self.label_smoothing;
            let loss = writer.lm_loss_of(memory, &encoded.texts, &pictures, smoothing, &counts);
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

/// What all ranks ask of this rank's features of pictures and of texts.
fn asked(
    rows: Contrast,
    slice: &Slice,
    width: usize,
    link: &mut Link<'_>,
) -> Result<[Vec<f32>; 2], RingError> {
    let mut all = rows.images;
    let half = all.len();
    all.extend(rows.texts);
    link.all_reduce_sum(&mut all)?;
    let own = slice.range.start * width..slice.range.end * width;
    let (images, texts) = all.split_at(half);
    Ok([images, texts].map(|asked| asked[own.clone()].to_vec()))
}

/// Pairs of image-text matching whose picture is in a chunk.
struct Pairs {
    texts: Vec<usize>,
    /// Pictures, counted from the first of the chunk.
    pictures: Vec<usize>,
    classes: Vec<u32>,
    /// Pairs of the global batch.
    all: usize,
}

impl Pairs {
    /// - `images`: the chunk, in the global batch.
    fn new(drawn: &Negatives, images: Range<usize>) -> Self {
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
    fn loss(&self, head: &dyn Match, memory: &Memory, global: &Share, pad: u32) -> Tensor<1> {
        let rows: Vec<&[u32]> = self
            .texts
            .iter()
            .map(|text| &global.tokens[*text][..])
            .collect();
        let logits = head.match_logits(memory, &TokenBatch::new(&rows, pad), &self.pictures);
        cross_entropy_sum(logits, &self.classes, 0.0) / self.all as f64
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
