//! Training steps: gradient, clipping, AdamW, the new parameters in place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use capstan_collective::SoloRing;
use capstan_model::names::open_clip;
use capstan_model::params::Decay;
use capstan_model::{Clip, Device, MedParts, Model, names};
use capstan_plan::stage::{self, Objective};
use capstan_train::momentum::Teacher;
use capstan_train::objective::{Objectives, Slice};
use capstan_train::{AdamW, AdamWConfig, Link};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Run;
use crate::inputs::Inputs;
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
        let slice = slice(&trainer, &pixels, &tokens);
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
        queue,
    } = released;
    let mut trainer = Trainer::new(&med);
    let (_, pixels) = inputs.floats("pixels")?;
    let tokens = inputs.ids("input_ids")?;
    momentum.update(&med);
    let teacher = Teacher::new(momentum, queue, SOFT_SHARE, 0);
    let parts = [Objective::Itc, Objective::Itm, Objective::Lm];
    let mut objectives = Objectives::new(&parts, stage::Positives::Pair, (SMOOTHING, 0), 0)
        .with_teacher(Some(teacher));
    Ok(Box::new(move || {
        let slice = slice(&trainer, &pixels, &tokens);
        let mut ring = SoloRing;
        let mut link = Link::new(&mut ring, Duration::from_secs(60));
        let gradient = objectives.gradient(&med, &slice, &mut link)?;
        let loss = gradient.losses.values().sum();
        trainer.apply(&mut med, &gradient.flat, loss);
        objectives.follow(&med, gradient.newest.as_ref());
        Ok(loss)
    }))
}

/// The batch as that of the next step.
fn slice(trainer: &Trainer, pixels: &[f32], tokens: &[Vec<u32>]) -> Slice {
    Slice {
        step: trainer.losses.len() as u64,
        range: 0..tokens.len(),
        pixels: pixels.to_vec(),
        tokens: tokens.to_vec(),
        pictures: (0..tokens.len() as u32).collect(),
    }
}
