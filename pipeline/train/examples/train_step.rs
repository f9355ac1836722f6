//! Times the training step of the demo's sizes: two ranks of this process, a thread each, random
//! pictures and texts.
//!
//! `cargo run --release -p capstan-train --example train_step -- [STEPS] [RANKS]`
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use capstan_collective::{Collective, Ring, RingEpoch, RingPlan, Secret, SoloRing};
use capstan_model::config::SpecialIds;
use capstan_model::{DeviceSpec, ImagePreprocess};
use capstan_plan::id::{Digest, TextId};
use capstan_plan::results::TrainingStep;
use capstan_plan::stage::{self, Activation, Architecture, Family};
use capstan_train::{Job, PictureSource, Pictures, Sample, SourceError, Watch, network, train};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIDE: usize = 64;
const VOCABULARY: usize = 400;
const SAMPLES: usize = 2000;
const GLOBAL_BATCH: usize = 32;
const LIMIT: Duration = Duration::from_secs(120);

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<usize>());
    let mut number = |default| numbers.next().unwrap_or(Ok(default));
    let (steps, world_size) = (number(100)?, number(2)?);
    let all = r#"["itc", "itm", "lm"]"#;
    let momentum = r#", "momentum": {"queue": 3200}"#;
    let recipe = format!(r#"{momentum}, "dropout": 0.1"#);
    let arms = [
        ("CLIP", Family::Clip, r#"["itc"]"#, ""),
        ("BLIP itc + itm + lm", Family::Blip, all, ""),
        ("the same, momentum", Family::Blip, all, momentum),
        ("momentum, dropout", Family::Blip, all, &recipe),
        ("BLIP lm", Family::Blip, r#"["lm"]"#, ""),
        ("BLIP itc + itm", Family::Blip, r#"["itc", "itm"]"#, ""),
    ];
    for (name, family, objectives, more) in arms {
        let config = serde_json::from_str(&format!(
            r#"{{"data": [], "tokenizer": "t", "objectives": {objectives}, "steps": {steps},
            "global_batch": {GLOBAL_BATCH}, "learning_rate": 3e-3, "label_smoothing": 0.1,
            "shift_px": 4, "brightness_jitter": 0.15, "checkpoint_steps": 0{more}}}"#
        ))?;
        report(name, &time(&config, family, world_size)?);
    }
    Ok(())
}

/// The second half of the steps, which no first touch disturbs.
fn report(name: &str, steps: &[TrainingStep]) {
    let steps = &steps[steps.len() / 2..];
    let median = |value: &dyn Fn(&TrainingStep) -> f64| {
        let mut values: Vec<f64> = steps.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        1e3 * values[values.len() / 2]
    };
    println!(
        "{name:20} {:6.1} ms/step, of which {:5.2} ms in the ring (waiting included); loss {:.3}",
        median(&|step| step.step_seconds),
        median(&|step| step.all_reduce_seconds),
        steps[steps.len() - 1].loss,
    );
}

fn time(
    config: &stage::Train,
    family: Family,
    world_size: usize,
) -> Result<Vec<TrainingStep>, Error> {
    if world_size == 1 {
        return rank(config, family, &mut SoloRing);
    }
    let listeners: Vec<TcpListener> = (0..world_size)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let peers: Vec<SocketAddr> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| {
                let plan = RingPlan {
                    run: "step".to_owned(),
                    ring_epoch: RingEpoch::default(),
                    rank: index,
                    world_size,
                    peers: peers.clone(),
                    secret: Secret([0; 32]),
                };
                scope.spawn(move || {
                    let mut ring = Ring::connect(&plan, listener, 0, Instant::now() + LIMIT)?;
                    rank(config, family, &mut ring)
                })
            })
            .collect();
        let mut results = ranks
            .into_iter()
            .map(|rank| rank.join().expect("no rank panics"));
        results.next().expect("there is a rank 0")
    })
}

fn rank(
    config: &stage::Train,
    family: Family,
    ring: &mut dyn Collective,
) -> Result<Vec<TrainingStep>, Error> {
    let architecture = Architecture {
        family,
        image_size: SIDE,
        patch_size: 16,
        width: 64,
        heads: 4,
        vision_layers: 3,
        text_layers: 2,
        projection: 64,
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
    let vocabulary = (VOCABULARY, &special);
    let mut network = network::drawn(&architecture, &config.objectives, vocabulary, 0, &device)?;
    let samples: Vec<Sample> = (0..SAMPLES as u32).map(sample).collect();
    let mut pictures = Pictures::new(Box::new(Noise), SAMPLES, 1 << 30);
    let mut steps = Vec::new();
    let job = Job {
        config,
        seed: 0,
        samples: &samples,
        rows: samples.len() as u64,
        prompt_tokens: 0,
        pictures: &mut pictures,
        preprocess: &ImagePreprocess::new(SIDE),
        ring_limit: LIMIT,
    };
    let watch = Watch {
        step: &mut |step| steps.push(step.clone()),
        checkpoints: None,
        cancel: &AtomicBool::new(false),
        before_update: None,
        validator: None,
    };
    train(job, &mut *network, ring, None, watch)?;
    Ok(steps)
}

fn noise(of: u32, place: u32) -> u32 {
    ((of + 1).wrapping_mul(2_654_435_761) ^ place.wrapping_mul(40_503_001))
        .wrapping_mul(747_796_405)
        >> 16
}

/// Texts of 6 to 15 tokens, as the demo's are.
fn sample(index: u32) -> Sample {
    let words = (0..4 + noise(index, 0) % 10).map(|word| 7 + noise(index, word + 1) % 390);
    Sample {
        text_id: TextId(Digest::of(&index.to_le_bytes())),
        shard: index / 500,
        picture: index as usize,
        tokens: [3].into_iter().chain(words).chain([4]).collect(),
    }
}

struct Noise;

impl PictureSource for Noise {
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        let picture = |of: u32| {
            (0..3 * (SIDE * SIDE) as u32)
                .map(|at| noise(of, at) as u8)
                .collect()
        };
        Ok(pictures.iter().map(|of| picture(*of as u32)).collect())
    }
}
