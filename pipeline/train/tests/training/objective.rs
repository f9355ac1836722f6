//! The gradient of an objective against the library's own differentiation of the plain formula.

use std::time::Duration;

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Tensor, TensorData};
use capstan_collective::SoloRing;
use capstan_model::config::SpecialIds;
use capstan_model::network::cross_entropy_sum;
use capstan_model::{DeviceSpec, Network, TokenBatch};
use capstan_plan::draw::Draws;
use capstan_plan::stage::{Activation, Architecture, Family, Objective, Positives};
use capstan_train::Link;
use capstan_train::momentum::{Classes, Momentum, Newest, Queue, Teacher};
use capstan_train::network::drawn;
use capstan_train::objective::negatives::Negatives;
use capstan_train::objective::{Gradient, Objectives, Slice, positives as batch};

const BATCH: usize = 6;
const SIDE: usize = 16;
/// Seed of hard negatives.
const SEED: u64 = 1;

fn network(family: Family, objectives: &[Objective]) -> Box<dyn Network> {
    drawn_with(2, family, objectives)
}

fn drawn_with(seed: u64, family: Family, objectives: &[Objective]) -> Box<dyn Network> {
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
    let device = DeviceSpec::Cpu.open().unwrap().autodiff();
    drawn(&architecture, objectives, (20, &special), seed, &device).unwrap()
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
        pictures: vec![0, 1, 2, 3, 4, 2],
    }
}

fn pixels(network: &dyn Network, slice: &Slice) -> Tensor<4> {
    let data = TensorData::new(slice.pixels.clone(), [BATCH, 3, SIDE, SIDE]);
    Tensor::from_data(data, network.device())
}

/// Mean over both directions of the cross entropy of `logits` against `targets`.
fn symmetric(logits: Tensor<2>, targets: Vec<f32>) -> Tensor<1> {
    let device = logits.device();
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [BATCH, BATCH]), &device);
    let rows = (log_softmax(logits.clone(), 1) * targets.clone()).sum();
    let columns = (log_softmax(logits.transpose(), 1) * targets).sum();
    (rows + columns) / -2.0 / BATCH as f64
}

fn check(
    network: &dyn Network,
    reference: Tensor<1>,
    objectives: &[Objective],
    positives: Positives,
) {
    let objectives = Objectives::new(objectives, positives, (0.1, 0), SEED);
    check_objectives(network, reference, &objectives);
}

fn check_objectives(network: &dyn Network, reference: Tensor<1>, objectives: &Objectives) {
    let want_loss = reference.to_data().try_to_vec::<f32>().unwrap()[0];
    let want = network.gradients(&mut reference.backward());
    let mut ring = SoloRing;
    let mut link = Link::new(&mut ring, Duration::from_secs(10));
    let got = objectives.gradient(network, &slice(), &mut link).unwrap();
    let loss: f64 = got.losses.values().sum();
    assert!(
        (loss - f64::from(want_loss)).abs() < 1e-5,
        "{loss} instead of {want_loss}"
    );
    let scale = want.iter().map(|x| x.abs()).fold(0f32, f32::max);
    for slice in network.layout() {
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

/// Cosines of pictures and texts, and the parameter behind their factor.
fn cosines(network: &dyn Network, slice: &Slice) -> (Tensor<2>, Tensor<1>) {
    let space = network.embed().unwrap();
    let images = space.image_features(&network.encode(pixels(network, slice)));
    let texts = space.text_features(&TokenBatch::new(&slice.tokens, 0));
    (images.matmul(texts.transpose()), space.scale().0.tensor())
}

/// Targets where these samples are positives of each other.
fn targets(positives: &[usize]) -> Vec<f32> {
    let one = |i: usize, j: usize| match i == j {
        _ if positives.contains(&i) && positives.contains(&j) => 1.0 / positives.len() as f32,
        true => 1.0,
        false => 0.0,
    };
    (0..BATCH)
        .flat_map(|i| (0..BATCH).map(move |j| one(i, j)))
        .collect()
}

#[test]
fn clip_follows_the_formula() {
    let network = network(Family::Clip, &[Objective::Itc]);
    let (cosines, logarithm) = cosines(&*network, &slice());
    let logits = cosines * logarithm.exp().unsqueeze();
    let reference = symmetric(logits, targets(&[]));
    check(&*network, reference, &[Objective::Itc], Positives::Pair);
}

#[test]
fn positives_share_the_target() {
    // Samples 1 and 3 have one text, 2 and 5 one picture.
    let by_text_and_picture = {
        let (mut both, pictures) = (targets(&[1, 3]), targets(&[2, 5]));
        for row in [2, 5] {
            let row = row * BATCH..(row + 1) * BATCH;
            both[row.clone()].copy_from_slice(&pictures[row]);
        }
        both
    };
    for (rule, targets) in [
        (Positives::Pair, targets(&[])),
        (Positives::Picture, targets(&[2, 5])),
        (Positives::PictureOrText, by_text_and_picture),
    ] {
        let network = network(Family::Blip, &[Objective::Itc]);
        let (cosines, temperature) = cosines(&*network, &slice());
        let reference = symmetric(cosines / temperature.unsqueeze(), targets);
        check(&*network, reference, &[Objective::Itc], rule);
    }
}

/// A teacher whose copies are of another network. Of its queue of three, the oldest entry belongs to no
/// sample, the next is of the picture of samples 2 and 5, and the last has the text of samples 1 and 3.
fn teacher(objectives: &[Objective]) -> Teacher {
    let copies = Momentum::new(&*drawn_with(9, Family::Blip, objectives), 0.9).unwrap();
    let classes = [Classes::new(2, &[17]), Classes::new(8, &slice().tokens[1])];
    let unit = |at: usize| (0..8).map(move |i| if i == at { 1.0 } else { 0.0 });
    let mut queue = Queue::drawn(3, 8, 4);
    queue.push(&Newest {
        images: vec![0.5; 8],
        texts: vec![0.5; 8],
        classes: vec![Classes::new(99, &[16])],
    });
    queue.push(&Newest {
        images: unit(0).chain(unit(1)).collect(),
        texts: unit(2).chain(unit(3)).collect(),
        classes: classes.to_vec(),
    });
    Teacher::new(copies, queue, 0.4, 4)
}

/// The contrast with a teacher at step 3 of a ramp of 4 to a share of 0.4, in plain operations.
fn distilled(network: &dyn Network, teacher: &Teacher, hard: Vec<f32>) -> Tensor<1> {
    let (slice, space) = (slice(), network.embed().unwrap());
    let texts = TokenBatch::new(&slice.tokens, 0);
    let own = [
        space.image_features(&network.encode(pixels(network, &slice))),
        space.text_features(&texts),
    ];
    let copies = teacher.copies().features(pixels(network, &slice), &texts);
    let copies = [copies.images, copies.texts];
    let entries = BATCH + teacher.queue().capacity();
    let hard = Tensor::<2>::from_data(TensorData::new(hard, [BATCH, entries]), &copies[0].device());
    let temperature = space.scale().0.tensor();
    let side = |side: usize| {
        let queued = teacher.queue().features()[1 - side].to_vec();
        let queued = TensorData::new(queued, [entries - BATCH, 8]);
        let queued = Tensor::<2>::from_data(queued, &copies[0].device());
        let others = Tensor::cat(vec![copies[1 - side].clone(), queued], 0).transpose();
        let similar = copies[side].clone().matmul(others.clone());
        let soft = softmax(similar / temperature.clone().inner().unsqueeze(), 1);
        let targets = soft * 0.3 + hard.clone() * 0.7;
        let logits = own[side].clone().matmul(others) / temperature.clone().unsqueeze();
        (log_softmax(logits, 1) * targets).sum()
    };
    (side(0) + side(1)) / -2.0 / BATCH as f64
}

/// Labels over the batch and the queue of [`teacher`].
fn labels(positives: Positives) -> Vec<f32> {
    const PICTURE: &[usize] = &[2, 5, BATCH + 1];
    const TEXT: &[usize] = &[1, 3, BATCH + 2];
    let groups: &[&[usize]] = match positives {
        Positives::Pair => &[],
        Positives::Picture => &[PICTURE],
        Positives::PictureOrText => &[PICTURE, TEXT],
    };
    let entries = BATCH + 3;
    let mut rows = vec![0f32; BATCH * entries];
    for (sample, row) in rows.chunks_exact_mut(entries).enumerate() {
        let group = groups.iter().find(|group| group.contains(&sample));
        let positives = group.map_or(vec![sample], |group| group.to_vec());
        for entry in &positives {
            row[*entry] = 1.0 / positives.len() as f32;
        }
    }
    rows
}

#[test]
fn a_teacher_gives_entries_and_soft_labels() {
    for rule in [
        Positives::Pair,
        Positives::Picture,
        Positives::PictureOrText,
    ] {
        let parts = [Objective::Itc];
        let (network, teacher) = (network(Family::Blip, &parts), teacher(&parts));
        let reference = distilled(&*network, &teacher, labels(rule));
        let objectives = Objectives::new(&parts, rule, (0.1, 0), SEED).with_teacher(Some(teacher));
        check_objectives(&*network, reference, &objectives);
    }
}

#[test]
fn negatives_are_drawn_by_the_similarities_with_momentum_features() {
    let parts = [Objective::Itc, Objective::Itm];
    let (network, teacher) = (network(Family::Blip, &parts), teacher(&parts));
    let (slice, space) = (slice(), network.embed().unwrap());
    let texts = TokenBatch::new(&slice.tokens, 0);
    let images = network.encode(pixels(&*network, &slice));
    let own = [space.image_features(&images), space.text_features(&texts)];
    let copies = teacher.copies().features(pixels(&*network, &slice), &texts);
    let temperature = space.scale().0.floats()[0];
    let logits = |rows: &Tensor<2>, columns: &Tensor<2>| -> Vec<f32> {
        let cosines = rows
            .clone()
            .inner()
            .matmul(columns.clone().inner().transpose());
        (cosines / temperature).into_data().try_to_vec().unwrap()
    };
    let positives = Positives::PictureOrText;
    let drawn = |texts: &Tensor<2>, images: &Tensor<2>| {
        let (of_images, of_texts) = (logits(&own[0], texts), logits(&own[1], images));
        let logits: [&dyn Fn(usize, usize) -> f32; 2] = [
            &|image, text| of_images[image * BATCH + text],
            &|text, image| of_texts[text * BATCH + image],
        ];
        let positives = batch::Positives::new(positives, &slice.pictures, &slice.tokens);
        Negatives::draw(
            &Draws::new(SEED, "hard negatives"),
            slice.step,
            logits,
            &positives,
        )
    };
    let negatives = drawn(&copies.texts, &copies.images);
    assert_ne!(
        negatives,
        drawn(&own[1], &own[0]),
        "copies make no difference"
    );
    let mut pairs: Vec<(usize, usize, u32)> =
        (0..BATCH).map(|sample| (sample, sample, 1)).collect();
    for sample in 0..BATCH {
        let (text, image) = (negatives.texts[sample], negatives.images[sample]);
        pairs.extend([(text.unwrap(), sample, 0), (sample, image.unwrap(), 0)]);
    }
    let rows: Vec<&[u32]> = pairs.iter().map(|pair| &*slice.tokens[pair.0]).collect();
    let pictures: Vec<usize> = pairs.iter().map(|pair| pair.1).collect();
    let classes: Vec<u32> = pairs.iter().map(|pair| pair.2).collect();
    let head = network.matching().unwrap();
    let logits = head.match_logits(&head.memory(&images), &TokenBatch::new(&rows, 0), &pictures);
    let itm = cross_entropy_sum(logits, &classes, 0.0) / pairs.len() as f64;
    let reference = distilled(&*network, &teacher, labels(positives)) + itm;
    let objectives = Objectives::new(&parts, positives, (0.1, 0), SEED);
    let objectives = objectives.with_teacher(Some(teacher));
    check_objectives(&*network, reference, &objectives);
}

#[test]
fn blip_models_language_over_all_tokens() {
    let network = network(Family::Blip, &[Objective::Lm]);
    let slice = slice();
    let writer = network.generator().unwrap();
    let memory = writer.memory(&network.encode(pixels(&*network, &slice)));
    let texts = TokenBatch::new(&slice.tokens, 0);
    let loss = writer.lm_loss(&memory, &texts, &[0, 1, 2, 3, 4, 5], 0.1);
    assert_eq!(loss.tokens, 10 + BATCH);
    let mean = loss.sum / loss.tokens as f64;
    check(&*network, mean, &[Objective::Lm], Positives::default());
}

#[test]
fn chunks_give_the_gradient_of_the_whole_batch() {
    let all = [Objective::Itc, Objective::Itm, Objective::Lm];
    for (family, objectives, distilled, dropout) in [
        (Family::Blip, &all[..], false, 0.0),
        (Family::Blip, &all[..], true, 0.0),
        (Family::Blip, &all[..], true, 0.3),
        (Family::Clip, &all[..1], false, 0.0),
    ] {
        let network = network(family, objectives);
        let gradient = |chunk| {
            let mut ring = SoloRing;
            let mut link = Link::new(&mut ring, Duration::from_secs(10));
            Objectives::new(objectives, Positives::default(), (0.1, 0), SEED)
                .with_chunk(chunk)
                .with_dropout(dropout)
                .with_teacher(distilled.then(|| teacher(objectives)))
                .gradient(&*network, &slice(), &mut link)
                .unwrap()
        };
        let whole = gradient(None);
        let largest = whole.flat.iter().fold(0f32, |most, x| most.max(x.abs()));
        for chunk in [1, 2, 4, 6, 100] {
            let found = gradient(Some(chunk));
            for (name, loss) in &whole.losses {
                assert!(
                    (found.losses[name] - loss).abs() < 1e-5,
                    "{name} by {chunk}"
                );
            }
            for (a, b) in found.flat.iter().zip(&whole.flat) {
                assert!((a - b).abs() < 2e-5 * largest, "{a} for {b} by {chunk}");
            }
            if chunk >= BATCH {
                assert_eq!(found, whole);
            }
        }
    }
}

#[test]
fn every_part_of_a_step_is_computed_with_dropout() {
    let all = [Objective::Itc, Objective::Itm, Objective::Lm];
    let network = network(Family::Blip, &all);
    let gradient = |rate, step| {
        let mut ring = SoloRing;
        let mut link = Link::new(&mut ring, Duration::from_secs(10));
        let slice = Slice { step, ..slice() };
        Objectives::new(&all, Positives::default(), (0.1, 0), SEED)
            .with_dropout(rate)
            .with_teacher(Some(teacher(&all)))
            .gradient(&*network, &slice, &mut link)
            .unwrap()
    };
    let (without, with, later) = (gradient(0.0, 3), gradient(0.3, 3), gradient(0.3, 4));
    for (name, loss) in &with.losses {
        assert_ne!(*loss, without.losses[name], "{name}");
        assert_ne!(*loss, later.losses[name], "{name}");
    }
    let features = |gradient: &Gradient| gradient.newest.clone().unwrap();
    assert_eq!(features(&with).images, features(&without).images);
    assert_ne!(features(&with).texts, features(&without).texts);
}
