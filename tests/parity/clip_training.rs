//! Steps of open_clip's training: contrast, clipping, AdamW, cosine schedule, bounded scale.

use super::array::Array;
use super::case::Case;
use super::open_clip::load;
use super::{Outputs, Setup};
use capstan_collective::SoloRing;
use capstan_model::names::{self, open_clip};
use capstan_model::params::Decay;
use capstan_model::{Clip, Embed, Model};
use capstan_plan::stage::{Objective, Positives};
use capstan_train::objective::{Objectives, Slice};
use capstan_train::{AdamW, AdamWConfig, Link, Schedule, clip_factor, global_norm};
use serde::Deserialize;
use std::time::Duration;

/// `train` of `config.json`.
#[derive(Debug, Deserialize)]
struct Settings {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    warmup: u64,
    steps: u64,
    grad_clip_norm: f64,
}

pub fn compute(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let settings = Settings::deserialize(&case.config()?["train"])
        .map_err(|error| format!("config.json: `train`: {error}"))?;
    let mut network = load(case, setup, &setup.training_device())?;
    let layout = network.layout();
    let scale = layout.iter().find(|slice| slice.name == "logit_scale");
    let scale = scale.ok_or("the network has no scale")?.range.start;
    let decays = layout
        .iter()
        .map(|slice| (slice.range.len(), slice.decays(Decay::Dimensions)));
    let adamw = AdamWConfig {
        betas: settings.betas,
        epsilon: settings.eps,
        weight_decay: settings.weight_decay,
    };
    let mut optimizer = AdamW::new(adamw, decays);
    let schedule = Schedule::with_warmup_steps(settings.lr, settings.steps, settings.warmup, 0.0);
    let objectives = Objectives::new(&[Objective::Itc], Positives::Pair, (0.0, 0), 0);
    let (mut outputs, mut curve) = (Outputs::new(), [const { Vec::new() }; 4]);
    for step in 0..settings.steps {
        let slice = slice(case, step)?;
        let mut ring = SoloRing;
        let mut link = Link::new(&mut ring, Duration::from_secs(1));
        let gradient = objectives
            .gradient(&network, &slice, &mut link)
            .map_err(|error| error.to_string())?;
        if step == 0 {
            outputs.extend(stored("grad0.", &network, &gradient.flat)?);
        }
        let norm = global_norm(&gradient.flat);
        let rate = schedule.learning_rate(step);
        let factor = clip_factor(norm, settings.grad_clip_norm);
        let bounded = network.scale().1;
        let mut update = optimizer.begin(factor, rate);
        network.update(&mut |range, params| {
            update.apply(range.clone(), params, &gradient.flat[range.clone()]);
            if range.contains(&scale) {
                params[0] = bounded.bounded(params[0]);
            }
        });
        let after = network.scale().0.floats()[0];
        let figures = [gradient.losses["itc"], norm, rate, f64::from(after)];
        for (curve, figure) in curve.iter_mut().zip(figures) {
            curve.push(figure);
        }
    }
    outputs.extend(stored("after5.", &network, &network.to_flat())?);
    let names = ["losses", "grad_norms", "lrs", "logit_scale_after"];
    for (name, curve) in names.into_iter().zip(curve) {
        outputs.push((name.into(), Array::double(&[curve.len()], curve)));
    }
    Ok(outputs)
}

/// The samples of a step, all on one rank.
fn slice(case: &Case, step: u64) -> Result<Slice, String> {
    let (image, text) = (case.input("image")?, case.input("text")?);
    let (batch, len) = (text.shape[1], text.shape[2]);
    let pixels = image.floats();
    let floats = pixels.len() / image.shape[0];
    let ids = &text.ints()[step as usize * batch * len..][..batch * len];
    let row = |row: &[i64]| row.iter().map(|id| *id as u32).collect();
    Ok(Slice {
        step,
        range: 0..batch,
        pixels: pixels[step as usize * floats..][..floats].to_vec(),
        tokens: ids.chunks_exact(len).map(row).collect(),
        pictures: (0..batch as u32).collect(),
    })
}

/// A flat vector as tensors under open_clip's names.
fn stored(prefix: &str, network: &Clip, flat: &[f32]) -> Result<Outputs, String> {
    let tensors = names::tensors(&network.layout(), flat, &open_clip::place)
        .map_err(|error| error.to_string())?;
    let outputs = tensors
        .into_iter()
        .map(|(name, (shape, values))| (format!("{prefix}{name}"), Array::float(&shape, values)));
    Ok(outputs.collect())
}
