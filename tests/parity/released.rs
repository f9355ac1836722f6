//! The network of BLIP's first release with its momentum copies and queues, as LAVIS saves it.

use std::collections::BTreeMap;
use std::path::Path;

use super::Setup;
use super::array;
use super::case::{self, WEIGHTS};
use capstan_model::config::{BlipConfig, Sizes, SpecialIds};
use capstan_model::names::{self, Tensor, blip};
use capstan_model::{Med, MedParts, Model};
use capstan_train::momentum::{Classes, Momentum, Queue};
use serde::Deserialize;

/// `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    momentum: f64,
    embed_dim: usize,
    bert: Bert,
    vit: Vision,
    tokenizer: Tokens,
}

#[derive(Debug, Deserialize)]
struct Bert {
    hidden: usize,
    ffn: usize,
    heads: usize,
    ln_eps: f64,
    max_pos: usize,
}

#[derive(Debug, Deserialize)]
struct Vision {
    img: usize,
    patch: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_ratio: usize,
    ln_eps: f64,
}

#[derive(Debug, Deserialize)]
struct Tokens {
    pad: u32,
    cls: u32,
    sep: u32,
    dec: u32,
    enc: u32,
    vocab: usize,
}

/// Bounds of the temperature.
const TEMPERATURE: [f32; 2] = [0.001, 0.5];

/// The network, and what follows it.
pub struct Released {
    /// The trained network.
    pub med: Med,
    /// Copies of its encoders.
    pub momentum: Momentum,
    /// Features of past samples.
    pub queue: Queue,
}

impl Config {
    /// - `layers`: of the text transformer, which `config.json` need not say.
    fn blip(&self, layers: usize) -> Result<BlipConfig, String> {
        let sizes = Sizes {
            image_size: self.vit.img,
            patch_size: self.vit.patch,
            width: self.bert.hidden,
            heads: self.bert.heads,
            vision_layers: self.vit.depth,
            text_layers: layers,
            projection: self.embed_dim,
            max_text_tokens: self.bert.max_pos,
        };
        let tokens = &self.tokenizer;
        let special = SpecialIds {
            pad: tokens.pad,
            unk: tokens.pad,
            cls: tokens.cls,
            sep: tokens.sep,
            dec: tokens.dec,
            enc: tokens.enc,
        };
        let mut config = BlipConfig::new(&sizes, tokens.vocab, &special)
            .map_err(|error| format!("config.json: {error}"))?;
        config.text_config.intermediate_size = self.bert.ffn;
        config.text_config.layer_norm_eps = self.bert.ln_eps;
        config.text_config.encoder_hidden_size = self.vit.dim;
        let vision = &mut config.vision_config;
        vision.hidden_size = self.vit.dim;
        vision.num_attention_heads = self.vit.heads;
        vision.intermediate_size = self.vit.dim * self.vit.mlp_ratio;
        vision.layer_norm_eps = self.vit.ln_eps;
        Ok(config)
    }
}

/// Names of the file that are no parameter of the online network.
fn is_buffer(name: &str) -> bool {
    name.contains("_m.") || name.contains("queue")
}

impl Released {
    /// Reads `config.json` and `model.safetensors` of a folder.
    ///
    /// - `parts`: what the file holds.
    ///
    /// # Errors
    /// Names the file, or the tensor that is missing, superfluous or of another shape.
    pub fn read(folder: &Path, setup: &Setup, parts: MedParts) -> Result<Self, String> {
        let text = |error: names::Error| error.to_string();
        let config = Config::deserialize(case::config(folder)?)
            .map_err(|error| format!("config.json: {error}"))?;
        let path = folder.join(WEIGHTS);
        let weights = array::read_floats(&path)?;
        let is_layer = |layer: &usize| {
            let name = format!("text_encoder.encoder.layer.{layer}.attention.self.query.bias");
            weights.contains_key(&name)
        };
        let layers = (0..).take_while(is_layer).count();
        let mut med = Med::new(config.blip(layers)?, parts, &setup.training_device());
        let place = |name: &str| blip::place(name, parts, blip::Encoders::Online);
        let flat = names::flat(&med.layout(), &weights, &place, &is_buffer).map_err(text)?;
        med.load_flat(&bounded(&med, flat));
        let mut momentum = Momentum::new(&med, config.momentum).ok_or("no encoders")?;
        let mut params = momentum.params();
        for slice in momentum.layout() {
            // The copies have neither a match head nor a temperature.
            if slice.name.starts_with("itm_head") || slice.name == "temperature" {
                continue;
            }
            let copy = |name: &str| blip::place(name, parts, blip::Encoders::Momentum);
            let one = std::slice::from_ref(&slice);
            let values = names::flat(one, &weights, &copy, &|_| true).map_err(text)?;
            params[slice.range].copy_from_slice(&values);
        }
        assert!(momentum.restore(&params), "as many values as there were");
        Ok(Self {
            queue: queue(&weights, &array::read_ints(&path)?, config.embed_dim)?,
            med,
            momentum,
        })
    }
}

/// The parameters with the temperature in its bounds, as the release clamps it before a step.
fn bounded(med: &Med, mut flat: Vec<f32>) -> Vec<f32> {
    for slice in med.layout() {
        if slice.name == "temperature" {
            let place = &mut flat[slice.range.start];
            *place = place.clamp(TEMPERATURE[0], TEMPERATURE[1]);
        }
    }
    flat
}

/// The queue of the file, which stores a feature as a column.
fn queue(
    floats: &BTreeMap<String, Tensor>,
    ints: &BTreeMap<String, Vec<i64>>,
    width: usize,
) -> Result<Queue, String> {
    let missing = |name: &str| format!("buffer `{name}` is missing");
    let rows = |name: &str| -> Result<Vec<f32>, String> {
        let (_, values) = floats.get(name).ok_or_else(|| missing(name))?;
        Ok(transposed(values, width))
    };
    let next = ints.get("queue_ptr").ok_or_else(|| missing("queue_ptr"))?[0] as usize;
    let images = rows("image_queue")?;
    let classes = match ints.get("idx_queue") {
        // The release has no classes of texts.
        Some(ids) => ids
            .iter()
            .map(|id| u64::try_from(*id).ok())
            .map(|id| id.map(|picture| Classes { picture, text: 0 }))
            .collect(),
        None => vec![None; images.len() / width],
    };
    let queue = Queue::from_parts(images, rows("text_queue")?, width, classes, next);
    queue.ok_or_else(|| "the queues differ in size".to_owned())
}

/// A matrix of `rows` rows with rows and columns exchanged.
pub fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len())
        .map(|place| values[place % rows * columns + place / rows])
        .collect()
}
