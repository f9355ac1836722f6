//! Times forward and backward of the demo's CLIP and BLIP on one thread, as one rank
//! of two does them:
//!
//! ```text
//! cargo run --release -p capstan-model --example step -- [steps] [batch]
//! ```
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use capstan_model::config::{BlipConfig, ClipConfig, Sizes, SpecialIds};
use capstan_model::network::cross_entropy_sum;
use capstan_model::{
    Clip, ComputePool, DeviceSpec, Embed, Generate, InitRecipe, Look, Match, Med, MedParts, Model,
    Network, Tensor, TensorData, TokenBatch,
};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: Sizes = Sizes {
    image_size: 64,
    patch_size: 16,
    width: 64,
    heads: 4,
    vision_layers: 3,
    text_layers: 2,
    projection: 64,
    max_text_tokens: 20,
};
const VOCABULARY: usize = 300;
const SPECIAL: SpecialIds = SpecialIds {
    pad: 0,
    unk: 1,
    cls: 2,
    sep: 3,
    dec: 4,
    enc: 5,
};

/// Pseudo-random numbers: times do not depend on which.
fn noise(seed: u64, index: usize) -> u64 {
    let mut x = seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

fn texts(batch: usize, step: usize) -> TokenBatch {
    // Batches are of like length, so a row is at most a few tokens shorter.
    let longest = 9 + step % 6;
    let rows: Vec<Vec<u32>> = (0..batch)
        .map(|row| {
            let len = longest - (noise(1, row + step) % 3) as usize;
            let word = |i| 6 + (noise(2, row * 31 + i + step) % (VOCABULARY as u64 - 6)) as u32;
            let mut ids: Vec<u32> = (0..len).map(word).collect();
            (ids[0], ids[len - 1]) = (SPECIAL.cls, SPECIAL.sep);
            ids
        })
        .collect();
    TokenBatch::new(&rows, SPECIAL.pad)
}

fn pixels(batch: usize, step: usize, device: &capstan_model::Device) -> Tensor<4> {
    let len = batch * 3 * 64 * 64;
    let values: Vec<f32> = (0..len)
        .map(|i| (noise(3 + step as u64, i) % 997) as f32 / 250.0 - 2.0)
        .collect();
    Tensor::from_data(TensorData::new(values, [batch, 3, 64, 64]), device)
}

fn contrast(image: Tensor<2>, text: Tensor<2>, scale: Tensor<1>) -> Tensor<1> {
    let [batch, _] = image.dims();
    let classes: Vec<u32> = (0..batch as u32).collect();
    let logits = image.matmul(text.transpose()) * scale.unsqueeze();
    let half = |logits| cross_entropy_sum(logits, &classes, 0.0) / (2 * batch) as f64;
    half(logits.clone()) + half(logits.transpose())
}

fn clip_loss(clip: &Clip, pixels: Tensor<4>, texts: &TokenBatch) -> Tensor<1> {
    contrast(
        clip.image_features(&clip.encode(pixels)),
        clip.text_features(texts),
        clip.logit_scale(),
    )
}

fn blip_loss(med: &Med, pixels: Tensor<4>, texts: &TokenBatch) -> Tensor<1> {
    let images = med.encode(pixels);
    let memory = med.memory(&images);
    let batch = texts.rows();
    let itc = contrast(
        med.image_features(&images),
        med.text_features(texts),
        med.temperature().recip(),
    );
    let negative = |row: usize| (row + 1) % batch;
    let rows: Vec<Vec<u32>> = (0..3 * batch)
        .map(|i| {
            let row = if i / batch == 1 {
                negative(i % batch)
            } else {
                i % batch
            };
            texts.row(row)[..texts.lengths()[row] as usize].to_vec()
        })
        .collect();
    let pictures: Vec<usize> = (0..3 * batch)
        .map(|i| {
            if i / batch == 2 {
                negative(i % batch)
            } else {
                i % batch
            }
        })
        .collect();
    let logits = med.match_logits(&memory, &TokenBatch::new(&rows, SPECIAL.pad), &pictures);
    let classes: Vec<u32> = (0..3 * batch).map(|i| u32::from(i < batch)).collect();
    let itm = cross_entropy_sum(logits, &classes, 0.0) / (3 * batch) as f64;
    let own: Vec<usize> = (0..batch).collect();
    let lm = med.lm_loss(&memory, texts, &own, 0.1);
    itc + itm + lm.sum / lm.tokens as f64
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<usize>().ok());
    let steps = arguments.next().unwrap_or(100);
    let batch = arguments.next().unwrap_or(16);
    let pool = ComputePool::new(1).expect("a pool");
    pool.install(|| {
        let device = DeviceSpec::Cpu.open().expect("the CPU").autodiff();
        let mut clip = Clip::new(
            ClipConfig::new(&SIZES, VOCABULARY, &SPECIAL).expect("sizes"),
            &device,
        );
        clip.initialise(1, &InitRecipe::default());
        measure("clip", &clip, steps, |step| {
            clip_loss(&clip, pixels(batch, step, &device), &texts(batch, step))
        });
        let config = BlipConfig::new(&SIZES, VOCABULARY, &SPECIAL).expect("sizes");
        let mut med = Med::new(config, MedParts::Both, &device);
        med.initialise(1, &InitRecipe::default());
        measure("blip", &med, steps, |step| {
            blip_loss(&med, pixels(batch, step, &device), &texts(batch, step))
        });
    });
}

fn measure(name: &str, model: &impl Model, steps: usize, loss: impl Fn(usize) -> Tensor<1>) {
    let mut forward = Vec::new();
    let mut whole = Vec::new();
    let mut sum = 0.0f64;
    for step in 0..steps + 5 {
        let start = Instant::now();
        let loss = loss(step);
        forward.push(start.elapsed());
        let mut gradients = loss.backward();
        let flat = model.gradients(&mut gradients);
        whole.push(start.elapsed());
        sum += flat.iter().map(|g| f64::from(*g).abs()).sum::<f64>();
    }
    let median = |times: &mut Vec<std::time::Duration>| {
        times.drain(..5);
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    println!(
        "{name}: {} parameters, forward {:.1} ms, forward and backward {:.1} ms (median of {steps}); gradient sum {sum:.6e}",
        model.num_params(),
        median(&mut forward),
        median(&mut whole),
    );
}
