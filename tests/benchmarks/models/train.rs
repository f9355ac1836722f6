//! Training steps: gradient, clipping, AdamW, the new parameters in place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use burn::tensor::Tensor;
use capstan_collective::SoloRing;
use capstan_model::names::open_clip;
use capstan_model::network::cross_entropy_sum;
use capstan_model::params::Decay;
use capstan_model::{
    Clip, Device, Embed, Generate, Look, Match, Med, MedParts, Model, Network, TokenBatch, names,
};
use capstan_plan::draw::Draws;
use capstan_plan::stage::{self, Objective};
use capstan_train::momentum::{Features, contrast, hard_targets};
use capstan_train::objective::negatives::Negatives;
use capstan_train::objective::positives::Positives;
use capstan_train::objective::{Objectives, Slice};
use capstan_train::{AdamW, AdamWConfig, Link};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Run;
use crate::inputs::{Inputs, host};
use crate::pace::{finish, reset_peak_rss};
use crate::parity::Setup;
use crate::parity::released::Released;

/// Settings of both halves.
const LEARNING_RATE: f64 = 3e-4;
const ADAMW: AdamWConfig = AdamWConfig {
    betas: [0.9, 0.98],
    epsilon: 1e-6,
    weight_decay: 0.05,
};
/// Share of soft labels.
const SOFT_SHARE: f64 = 0.4;
/// Label smoothing of language modelling.
const SMOOTHING: f64 = 0.1;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// open_clip's CLIP with its contrast.
    Clip,
    /// BLIP's pre-training: ITC with momentum encoders and a queue, ITM, LM.
    Blip,
}

/// `models train`.
#[derive(Debug, Args)]
pub struct Train {
    #[arg(long)]
    kind: Kind,
    /// A checkpoint of open_clip, or of BLIP's first release.
    #[arg(long)]
    model: PathBuf,
    /// A file with `pixels` and `input_ids`; texts of BLIP have no padding.
    #[arg(long)]
    batch: PathBuf,
    #[command(flatten)]
    run: Run,
}

/// The optimiser, and the losses so far.
struct Trainer {
    optimizer: AdamW,
    losses: Vec<f64>,
}

impl Trainer {
    fn new(model: &dyn Model) -> Self {
        let layout = model.layout();
        let runs = layout
            .iter()
            .map(|slice| (slice.range.len(), slice.decays(Decay::Dimensions)));
        Self {
            optimizer: AdamW::new(ADAMW, runs),
            losses: Vec::new(),
        }
    }

    fn apply(&mut self, model: &mut dyn Model, gradient: &[f32], loss: f64) {
        let mut update = self.optimizer.begin(1.0, LEARNING_RATE);
        model.update(&mut |range, params| {
            update.apply(range.clone(), params, &gradient[range]);
        });
        self.losses.push(loss);
    }
}

impl Train {
    pub fn run(&self) -> Result<()> {
        let inputs = Inputs::read(&self.batch)?;
        let losses = self.run.on_device(|device, pace| {
            let mut step = match self.kind {
                Kind::Clip => clip(&self.model, &inputs, device)?,
                Kind::Blip => blip(&self.model, &inputs, &self.run)?,
            };
            reset_peak_rss()?;
            let mut losses = Vec::new();
            pace.repeat(|| {
                losses.push(step()?);
                Ok(())
            })?;
            Ok(losses)
        })?;
        finish(&json!({ "losses": losses }))
    }
}

type Step = Box<dyn FnMut() -> Result<f64>>;

fn clip(model: &Path, inputs: &Inputs, device: &Device) -> Result<Step> {
    let text = std::fs::read_to_string(model.join("config.json"))?;
    let config = open_clip::config(&serde_json::from_str(&text)?)?;
    let mut clip = Clip::new(config, &device.clone().autodiff());
    let weights = Inputs::read(&model.join("model.safetensors"))?.all_floats()?;
    let flat = names::flat(&clip.layout(), &weights, &open_clip::place, &|_| false)?;
    drop(weights);
    clip.load_flat(&flat);
    let mut trainer = Trainer::new(&clip);
    let (_, pixels) = inputs.floats("pixels")?;
    let tokens = inputs.ids("input_ids")?;
    let objectives = Objectives::new(&[Objective::Itc], stage::Positives::Pair, (0.0, 0), 0);
    Ok(Box::new(move || {
        let slice = Slice {
            step: trainer.losses.len() as u64,
            range: 0..tokens.len(),
            pixels: pixels.clone(),
            tokens: tokens.clone(),
            pictures: (0..tokens.len() as u32).collect(),
        };
        let mut ring = SoloRing;
        let mut link = Link::new(&mut ring, Duration::from_secs(60));
        let gradient = objectives.gradient(&clip, &slice, &mut link)?;
        let loss = gradient.losses["itc"];
        trainer.apply(&mut clip, &gradient.flat, loss);
        Ok(loss)
    }))
}

fn blip(model: &Path, inputs: &Inputs, run: &Run) -> Result<Step> {
    let setup = Setup::new(&run.device.to_string(), "f32").map_err(anyhow::Error::msg)?;
    let released = Released::read(model, &setup, MedParts::Both).map_err(anyhow::Error::msg)?;
    let Released {
        mut med,
        mut momentum,
        mut queue,
    } = released;
    let mut trainer = Trainer::new(&med);
    let pixels = inputs.pixels(&setup.training_device())?;
    let rows = inputs.ids("input_ids")?;
    let texts = TokenBatch::new(&rows, 0);
    let batch = texts.rows();
    let draws = Draws::new(0, "hard negatives");
    let pictures: Vec<u64> = (0..batch as u64).collect();
    let each: Vec<usize> = (0..batch).collect();
    let positives = Positives::new(stage::Positives::Pair, &[], &rows);
    Ok(Box::new(move || {
        let images = med.encode(pixels.clone());
        let own = Features {
            images: med.image_features(&images),
            texts: med.text_features(&texts),
        };
        momentum.update(&med);
        let copies = momentum.features(pixels.clone(), &texts);
        let entries = queue.entries(&copies);
        let columns = batch + queue.capacity();
        let hard = hard_targets(batch, columns, &|row, column| row == column, &copies);
        let temperature = med.temperature();
        let itc = contrast(
            &own,
            &copies,
            &entries,
            temperature,
            &hard,
            SOFT_SHARE,
            batch,
        );
        queue.push(
            &host(copies.images.clone())?,
            &host(copies.texts.clone())?,
            &pictures,
        );
        let logits = itc.logits[0].clone().inner().narrow(1, 0, batch);
        let step = trainer.losses.len() as u64;
        let drawn = Negatives::draw(&draws, step, &host(logits)?, &positives);
        let memory = med.memory(&images);
        let itm = matching(&med, &memory, &rows, &drawn)?;
        let lm = med.lm_loss(&memory, &texts, &each, SMOOTHING);
        let total = itc.loss + itm + lm.sum / lm.tokens as f64;
        let loss = f64::from(host(total.clone().inner())?[0]);
        ensure!(loss.is_finite(), "the loss is {loss}");
        let gradient = med.gradients(&mut total.backward());
        trainer.apply(&mut med, &gradient, loss);
        Ok(loss)
    }))
}

/// The mean over the pairs, over each picture with a drawn text, and over each text with a drawn picture.
fn matching(
    med: &Med,
    memory: &capstan_model::Memory,
    rows: &[Vec<u32>],
    drawn: &Negatives,
) -> Result<Tensor<1>> {
    let mut pairs: Vec<(usize, usize, u32)> = (0..rows.len()).map(|own| (own, own, 1)).collect();
    for (own, (text, image)) in drawn.texts.iter().zip(&drawn.images).enumerate() {
        let (Some(text), Some(image)) = (text, image) else {
            bail!("a batch of one sample has no negatives");
        };
        pairs.extend([(*text, own, 0), (own, *image, 0)]);
    }
    let texts: Vec<&[u32]> = pairs.iter().map(|(text, ..)| &*rows[*text]).collect();
    let which: Vec<usize> = pairs.iter().map(|(_, image, _)| *image).collect();
    let classes: Vec<u32> = pairs.iter().map(|(.., class)| *class).collect();
    let logits = med.match_logits(memory, &TokenBatch::new(&texts, 0), &which);
    Ok(cross_entropy_sum(logits, &classes, 0.0) / classes.len() as f64)
}
