//! The gradient of an objective against the library's own differentiation of the plain formula.

use std::time::Duration;

use burn::tensor::{Tensor, TensorData, activation::log_softmax};
use capstan_collective::SoloRing;
use capstan_model::config::SpecialIds;
use capstan_model::{DeviceSpec, TokenBatch};
use capstan_plan::stage::{Architecture, Family, Objective};
use capstan_train::objective::{Objectives, Slice};
use capstan_train::{Link, Network};

const BATCH: usize = 6;
const SIDE: usize = 16;

fn network(family: Family, objectives: &[Objective]) -> Network {
    let architecture = Architecture {
        family,
        image_size: SIDE,
        patch_size: 8,
        width: 16,
        heads: 2,
        vision_layers: 1,
        text_layers: 1,
        projection: 8,
        max_text_tokens: 8,
    };
    let special = SpecialIds {
        pad: 0,
        unk: 1,
        cls: 3,
        sep: 4,
        dec: 5,
        enc: 6,
    };
    let device = DeviceSpec::Cpu.open().unwrap().autodiff();
    Network::drawn(&architecture, objectives, (20, &special), 2, &device).unwrap()
}

fn slice() -> Slice {
    let tokens = [&[7u32, 8][..], &[9], &[10, 11, 12], &[9], &[13, 14], &[15]];
    Slice {
        step: 3,
        range: 0..BATCH,
        pixels: (0..BATCH * 3 * SIDE * SIDE)
            .map(|i| (i as f32 * 0.013).sin())
            .collect(),
        tokens: tokens
            .iter()
            .map(|words| [&[3], *words, &[4]].concat())
            .collect(),
    }
}

fn pixels(network: &Network, slice: &Slice) -> Tensor<4> {
    let data = TensorData::new(slice.pixels.clone(), [BATCH, 3, SIDE, SIDE]);
    Tensor::from_data(data, network.model().device())
}

/// Mean over both directions of the cross entropy of `logits` against `targets`.
fn symmetric(logits: Tensor<2>, targets: Vec<f32>) -> Tensor<1> {
    let device = logits.device();
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [BATCH, BATCH]), &device);
    let rows = (log_softmax(logits.clone(), 1) * targets.clone()).sum();
    let columns = (log_softmax(logits.transpose(), 1) * targets).sum();
    (rows + columns) / -2.0 / BATCH as f64
}

fn check(network: &Network, reference: Tensor<1>, objectives: &[Objective]) {
    let want_loss = reference.to_data().try_to_vec::<f32>().unwrap()[0];
    let want = network.model().gradients(&mut reference.backward());
    let params = network.model().to_flat();
    let mut ring = SoloRing;
    let mut link = Link::new(&mut ring, Duration::from_secs(10));
    let got = Objectives::new(objectives, 0.1, 1)
        .gradient(network, &params, &slice(), &mut link)
        .unwrap();
    let loss: f64 = got.losses.values().sum();
    assert!(
        (loss - f64::from(want_loss)).abs() < 1e-5,
        "{loss} instead of {want_loss}"
    );
    let scale = want.iter().map(|x| x.abs()).fold(0f32, f32::max);
    for slice in network.model().layout() {
        for at in slice.range {
            let apart = (want[at] - got.flat[at]).abs();
            assert!(
                apart < 2e-5 * scale,
                "{}: {} and {}",
                slice.name,
                want[at],
                got.flat[at]
            );
        }
    }
}

#[test]
fn clip_follows_the_formula() {
    let network = network(Family::Clip, &[Objective::Itc]);
    let Network::Clip(clip) = &network else {
        panic!("a CLIP was asked for")
    };
    let slice = slice();
    let images = clip.image_features(pixels(&network, &slice));
    let texts = clip.text_features(&TokenBatch::new(&slice.tokens, 0));
    let logits = images.matmul(texts.transpose()) * clip.logit_scale().unsqueeze();
    let own = |i: usize| (0..BATCH).map(move |j| f32::from(u8::from(i == j)));
    let reference = symmetric(logits, (0..BATCH).flat_map(own).collect());
    check(&network, reference, &[Objective::Itc]);
}

#[test]
fn blip_contrasts_with_soft_targets_for_equal_texts() {
    let network = network(Family::Blip, &[Objective::Itc]);
    let Network::Blip(med) = &network else {
        panic!("a BLIP was asked for")
    };
    let slice = slice();
    let images = med.image_features(&med.image_embeds(pixels(&network, &slice)));
    let texts = med.text_features(&TokenBatch::new(&slice.tokens, 0));
    let logits = images.matmul(texts.transpose()) / med.temperature().unsqueeze();
    // Samples 1 and 3 have one text.
    let target = |i: usize, j: usize| match (i, j) {
        (1 | 3, 1 | 3) => 0.5,
        _ if i == j => 1.0,
        _ => 0.0,
    };
    let targets = (0..BATCH)
        .flat_map(|i| (0..BATCH).map(move |j| target(i, j)))
        .collect();
    check(&network, symmetric(logits, targets), &[Objective::Itc]);
}

#[test]
fn blip_models_language_over_all_tokens() {
    let network = network(Family::Blip, &[Objective::Lm]);
    let Network::Blip(med) = &network else {
        panic!("a BLIP was asked for")
    };
    let slice = slice();
    let memory = med.memory(&med.image_embeds(pixels(&network, &slice)));
    let texts = TokenBatch::new(&slice.tokens, 0);
    let loss = med.lm_loss(&memory, &texts, &[0, 1, 2, 3, 4, 5], 0.1);
    assert_eq!(loss.tokens, 10 + BATCH);
    check(&network, loss.sum / loss.tokens as f64, &[Objective::Lm]);
}
