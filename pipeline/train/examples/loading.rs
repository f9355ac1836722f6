//! Times training steps of a CLIP at 224 pixels whose pictures are in memory, are decoded for each
//! step, or are decoded and augmented as BLIP does. The three alternate.
//!
//! ```text
//! cargo run --release -p capstan-train --example loading -- PICTURES [STEPS] [THREADS] [BATCH]
//! ```
//! PICTURES is a folder of JPEG files; a folder below it is not read.
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use capstan_collective::SoloRing;
use capstan_model::config::SpecialIds;
use capstan_model::{DeviceSpec, ImagePreprocess};
use capstan_plan::id::{Digest, TextId};
use capstan_plan::stage::{self, Activation, Architecture, Family};
use capstan_train::{
    Encoded, Job, PictureFiles, Pictures, Sample, SourceError, Watch, network, train,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIDE: usize = 224;
const ROUNDS: usize = 3;
const AUGMENT: &str = r#", "augment": {"crop_scale": [0.2, 1.0], "flip": true,
    "randaugment": {"operations": 2, "magnitude": 5}}"#;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Files that were read before the training.
#[derive(Clone)]
struct Files(Vec<Vec<u8>>);

impl PictureFiles for Files {
    type Bytes = Vec<u8>;

    fn fetch(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        Ok(pictures.iter().map(|at| self.0[*at].clone()).collect())
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("the first argument is a folder")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (steps, threads, batch) = (number(8)?, number(1)?, number(32)?);
    let preprocess = ImagePreprocess::new(SIDE);
    let files = Files(read(Path::new(&folder), &preprocess)?);
    println!("{} pictures", files.0.len());
    let arms = [
        ("in memory", "", u64::MAX),
        ("decoded", "", 0),
        ("decoded and augmented", AUGMENT, 0),
    ];
    let mut best = [f64::INFINITY; 3];
    for _ in 0..ROUNDS {
        for (best, (_, augment, budget)) in best.iter_mut().zip(arms) {
            let config = serde_json::from_str(&format!(
                r#"{{"data": [], "tokenizer": "t", "objectives": ["itc"], "steps": {steps},
                "global_batch": {batch}, "learning_rate": 1e-4, "checkpoint_steps": 0,
                "threads_per_rank": {threads} {augment}}}"#
            ))?;
            *best = best.min(median_step(&config, &files, &preprocess, budget)?);
        }
    }
    for (time, (name, ..)) in best.iter().zip(arms) {
        let ratio = time / best[0];
        println!(
            "{name:22} {:7.1} ms/step, {ratio:.3} of the first",
            1e3 * time
        );
    }
    decode_alone(&files, &preprocess, batch)
}

/// The files of a folder that can be decoded.
fn read(folder: &Path, preprocess: &ImagePreprocess) -> Result<Vec<Vec<u8>>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            files.push(std::fs::read(path)?);
        }
    }
    files.retain(|bytes| preprocess.decode(bytes).is_ok());
    Ok(files)
}

/// Prints the time of one thread for the pictures of a step.
fn decode_alone(files: &Files, preprocess: &ImagePreprocess, batch: usize) -> Result<(), Error> {
    let start = Instant::now();
    for bytes in &files.0 {
        preprocess.decode(bytes)?;
    }
    let each = start.elapsed().as_secs_f64() / files.0.len() as f64;
    println!(
        "decoding alone: {:.1} ms a picture on one thread, {:.0} ms a step",
        1e3 * each,
        1e3 * each * batch as f64
    );
    Ok(())
}

/// Seconds of a step in the second half of a training.
fn median_step(
    config: &stage::Train,
    files: &Files,
    preprocess: &ImagePreprocess,
    budget_bytes: u64,
) -> Result<f64, Error> {
    let architecture = Architecture {
        family: Family::Clip,
        image_size: SIDE,
        patch_size: 32,
        width: 384,
        heads: 6,
        vision_layers: 6,
        text_layers: 4,
        projection: 256,
        max_text_tokens: 20,
        text_width: None,
        text_heads: None,
        mlp_ratio: 4.0,
        text_mlp_ratio: None,
        activation: Activation::Gelu,
        norm_epsilon: None,
    };
    let special = SpecialIds {
        pad: 0,
        unk: 1,
        cls: 3,
        sep: 4,
        dec: 5,
        enc: 6,
    };
    let device = DeviceSpec::Cpu.open()?.autodiff();
    let mut network = network::drawn(
        &architecture,
        &config.objectives,
        (400, &special),
        0,
        &device,
    )?;
    let count = files.0.len();
    let source = Encoded::new(preprocess.clone(), files.clone());
    let mut pictures = Pictures::new(Box::new(source), count, budget_bytes);
    if budget_bytes > 0 {
        pictures.load(&(0..count).collect::<Vec<_>>())?;
    }
    let samples: Vec<Sample> = (0..20 * count).map(|index| sample(index, count)).collect();
    let mut steps = Vec::new();
    let job = Job {
        config,
        seed: 0,
        samples: &samples,
        prompt_tokens: 0,
        rows: samples.len() as u64,
        pictures: &mut pictures,
        preprocess,
        ring_limit: Duration::from_secs(120),
    };
    let watch = Watch {
        step: &mut |step| steps.push(step.step_seconds),
        checkpoints: None,
        cancel: &AtomicBool::new(false),
        before_update: None,
        validator: None,
    };
    train(job, &mut *network, &mut SoloRing, None, watch)?;
    let mut steps = steps.split_off(steps.len() / 2);
    steps.sort_by(f64::total_cmp);
    Ok(steps[steps.len() / 2])
}

fn sample(index: usize, pictures: usize) -> Sample {
    let words = (0..10).map(|word| 7 + ((index * 31 + word * 17) % 390) as u32);
    Sample {
        text_id: TextId(Digest::of(&index.to_le_bytes())),
        shard: 0,
        picture: index % pictures,
        tokens: [3].into_iter().chain(words).chain([4]).collect(),
    }
}
