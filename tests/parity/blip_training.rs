//! One training step of BLIP's first release: pre-training and retrieval, with momentum encoders and
//! queues. The batch has two samples, so that the negatives are given.

use super::array::Array;
use super::blip::batch;
use super::case::Case;
use super::clip::pictures;
use super::released::{Released, transposed};
use super::{Outputs, Setup};
use burn::tensor::Tensor;
use capstan_model::names::{self, blip};
use capstan_model::network::cross_entropy_sum;
use capstan_model::{
    Embed, Generate, Look, Match, Med, MedParts, Memory, Model, Network, TokenBatch,
};
use capstan_train::momentum::{Features, Queue, SoftContrast, contrast, hard_targets};

/// Label smoothing of language modelling in the release.
const SMOOTHING: f64 = 0.1;

/// What both kinds of training compute.
struct Step {
    texts: TokenBatch,
    own: Features,
    memory: Memory,
    contrast: SoftContrast,
    itm_logits: Tensor<2>,
    itm: Tensor<1>,
}

/// - `ids`: the picture of each sample.
fn step(case: &Case, setup: &Setup, start: &mut Released, ids: &[u64]) -> Result<Step, String> {
    let Released {
        med,
        momentum,
        queue,
    } = start;
    let pixels = pictures(case.input("image")?, &setup.training_device());
    let texts = batch(case.input("input_ids")?, case.input("attention_mask")?)?;
    let samples = texts.rows();
    let alpha = f64::from(case.input("alpha")?.floats()[0]);
    let images = med.encode(pixels.clone());
    let own = Features {
        images: med.image_features(&images),
        texts: med.text_features(&texts),
    };
    momentum.update(med);
    let copies = momentum.features(pixels, &texts);
    let entries = queue.entries(&copies);
    let positive = |sample: usize, entry: usize| match entry.checked_sub(samples) {
        None => ids[entry] == ids[sample],
        Some(queued) => queue.pictures()[queued] == Some(ids[sample]),
    };
    let hard = hard_targets(samples, samples + queue.capacity(), &positive, &copies);
    let temperature = med.temperature();
    let contrast = contrast(&own, &copies, &entries, temperature, &hard, alpha, samples);
    queue.push(&floats(&copies.images), &floats(&copies.texts), ids);
    let memory = med.memory(&images);
    let (itm_logits, itm) = matching(med, &memory, &texts);
    Ok(Step {
        texts,
        own,
        memory,
        contrast,
        itm_logits,
        itm,
    })
}

/// Each pair, each text with the other picture, each picture with the other text.
fn matching(med: &Med, memory: &Memory, texts: &TokenBatch) -> (Tensor<2>, Tensor<1>) {
    let row = |row: usize| texts.row(row)[..texts.lengths()[row] as usize].to_vec();
    let rows: Vec<Vec<u32>> = [0, 1, 0, 1, 1, 0].into_iter().map(row).collect();
    let pad = med.config().text_config.pad_token_id;
    let logits = med.match_logits(memory, &TokenBatch::new(&rows, pad), &[0, 1, 1, 0, 0, 1]);
    let loss = cross_entropy_sum(logits.clone(), &[1, 1, 0, 0, 0, 0], 0.0) / 6.0;
    (logits, loss)
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("f32 tensor")
}

/// A matrix as an output.
fn matrix(name: &str, tensor: &Tensor<2>) -> (String, Array) {
    (name.into(), Array::float(&tensor.dims(), floats(tensor)))
}

fn scalar(name: &str, tensor: &Tensor<1>) -> (String, Array) {
    (name.into(), Array::float(&[], floats(tensor)))
}

/// The outputs that both kinds share.
fn shared(step: &Step, queue: &Queue) -> Outputs {
    let [i2t, t2i] = &step.contrast.targets;
    let next = Array::int(&[1], vec![queue.next() as i64]);
    vec![
        scalar("loss_itc", &step.contrast.loss),
        scalar("loss_itm", &step.itm),
        matrix("sim_i2t_targets", i2t),
        matrix("sim_t2i_targets", t2i),
        matrix("itm_logits", &step.itm_logits),
        ("queue_ptr_after".into(), next),
    ]
}

pub fn pretrain(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let mut start = Released::read(&case.path, setup, MedParts::Both)?;
    // No two samples of pre-training share a picture.
    let step = step(case, setup, &mut start, &[u64::MAX - 1, u64::MAX])?;
    let own: Vec<usize> = (0..step.texts.rows()).collect();
    let lm = start
        .med
        .lm_loss(&step.memory, &step.texts, &own, SMOOTHING);
    let lm = lm.sum / lm.tokens as f64;
    let loss = step.contrast.loss.clone() + step.itm.clone() + lm.clone();
    let mut outputs = shared(&step, &start.queue);
    let [i2t, t2i] = &step.contrast.logits;
    outputs.extend([
        scalar("loss_lm", &lm),
        scalar("loss", &loss),
        matrix("sim_i2t", i2t),
        matrix("sim_t2i", t2i),
    ]);
    let vocabulary = start.med.config().text_config.vocab_size;
    let shape = [step.texts.rows(), step.texts.padded_len(), vocabulary];
    let logits = start.med.lm_logits(&step.memory, &step.texts, &own);
    outputs.push(("decoder_logits".into(), Array::tensor(&shape, logits)));
    let gradients = start.med.gradients(&mut loss.backward());
    outputs.extend(named(case, "grad.", &start.med, &gradients, &|name| {
        blip::place(name, MedParts::Both, blip::Encoders::Online)
    }));
    let copies = start.momentum.encoders();
    outputs.extend(named(
        case,
        "after.",
        copies,
        &start.momentum.params(),
        &|name| blip::place(name, MedParts::Both, blip::Encoders::Momentum),
    ));
    let names = ["image_queue_after", "text_queue_after"];
    for (name, features) in names.into_iter().zip(start.queue.features()) {
        let capacity = start.queue.capacity();
        let shape = [features.len() / capacity, capacity];
        let columns = transposed(features, capacity);
        outputs.push((name.into(), Array::float(&shape, columns)));
    }
    Ok(outputs)
}

/// The expected outputs behind `prefix`, from a flat vector. A shared parameter may be asked for
/// under the encoder's name.
fn named(
    case: &Case,
    prefix: &str,
    model: &Med,
    flat: &[f32],
    place: &dyn Fn(&str) -> Option<names::Stored>,
) -> Outputs {
    let layout = model.layout();
    let asked = case.expected.iter().filter_map(|(output, expected)| {
        let name = output.strip_prefix(prefix)?;
        let stored = |slice: &&_| -> bool {
            let slice: &capstan_model::params::ParamSlice = slice;
            place(&slice.name).is_some_and(|stored| stored.name == name)
        };
        let found = layout.iter().find(stored);
        let slice = found.or_else(|| layout.iter().find(|slice| slice.name == name))?;
        let values = flat[slice.range.clone()].to_vec();
        Some((output.clone(), Array::float(&expected.shape, values)))
    });
    asked.collect()
}

pub fn retrieval(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let mut start = Released::read(&case.path, setup, MedParts::Filter)?;
    let ids = case.input("image_id")?.ints().iter();
    let ids: Vec<u64> = ids.map(|id| *id as u64).collect();
    let step = step(case, setup, &mut start, &ids)?;
    let mut outputs = shared(&step, &start.queue);
    let loss = step.contrast.loss.clone() + step.itm.clone();
    // Of the batch alone and without copies: what the hard negatives are drawn from.
    let cosines = step
        .own
        .images
        .clone()
        .matmul(step.own.texts.clone().transpose());
    let pictures = start.queue.pictures().iter();
    let pictures = pictures.map(|id| id.map_or(-100, |id| id as i64)).collect();
    outputs.extend([
        scalar("loss", &loss),
        matrix("sim_i2t", &(cosines / start.med.temperature().unsqueeze())),
        (
            "idx_queue_after".into(),
            Array::int(&[1, start.queue.capacity()], pictures),
        ),
    ]);
    Ok(outputs)
}
