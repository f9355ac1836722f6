//! One training step of BLIP's first release: pre-training and retrieval, with momentum encoders and
//! queues. The batch has two samples, so that the negatives are given.
//!
//! Losses, gradients and the queue are those of [`Objectives`], which the stage `train` runs. The
//! matrices in between, which it keeps to itself, come from the parts that it is made of.

use std::time::Duration;

use super::array::Array;
use super::blip::batch;
use super::case::Case;
use super::clip::pictures;
use super::released::{Released, transposed};
use super::{Outputs, Setup};
use burn::tensor::Tensor;
use capstan_collective::SoloRing;
use capstan_model::names::{self, blip};
use capstan_model::params::ParamSlice;
use capstan_model::{Embed, Look, Match, Med, MedParts, Memory, Model, Network, TokenBatch};
use capstan_plan::stage::{Objective, Positives};
use capstan_train::Link;
use capstan_train::momentum::{Features, Queue, SoftContrast, Teacher, contrast, hard_targets};
use capstan_train::objective::{Gradient, Objectives, Slice};

/// Label smoothing of language modelling in the release.
const SMOOTHING: f64 = 0.1;

/// A step of either kind of training.
struct Step {
    med: Med,
    texts: TokenBatch,
    own: Features,
    memory: Memory,
    contrast: SoftContrast,
    itm_logits: Tensor<2>,
    gradient: Gradient,
    /// The copies as the step has them.
    copies: (Vec<ParamSlice>, Vec<f32>),
    /// The objectives after the step.
    objectives: Objectives,
}

/// - `ids`: the picture of each sample.
fn step(
    case: &Case,
    setup: &Setup,
    (parts, objectives): (MedParts, &[Objective]),
    rule: Positives,
    ids: &[u32],
) -> Result<Step, String> {
    let Released {
        med,
        mut momentum,
        queue,
    } = Released::read(&case.path, setup, parts)?;
    let image = case.input("image")?;
    let pixels = pictures(image, &setup.training_device());
    let texts = batch(case.input("input_ids")?, case.input("attention_mask")?)?;
    let alpha = f64::from(case.input("alpha")?.floats()[0]);
    // The release moves the copies at the start of a step, a training of ours at the end.
    momentum.update(&med);
    let copies = momentum.features(pixels.clone(), &texts);
    let copied = (momentum.layout(), momentum.params());
    let images = med.encode(pixels);
    let own = Features {
        images: med.image_features(&images),
        texts: med.text_features(&texts),
    };
    let contrast = matrices(&med, &own, &copies, &queue, (ids, alpha));
    let memory = med.memory(&images);
    let rows: Vec<Vec<u32>> = (0..texts.rows())
        .map(|row| texts.row(row)[..texts.lengths()[row] as usize].to_vec())
        .collect();
    let slice = Slice {
        step: 0,
        range: 0..rows.len(),
        pixels: image.floats(),
        tokens: rows.clone(),
        pictures: ids.to_vec(),
    };
    let mut objectives = Objectives::new(objectives, rule, (SMOOTHING, 0), 0)
        .with_teacher(Some(Teacher::new(momentum, queue, alpha, 0)));
    let mut ring = SoloRing;
    let mut link = Link::new(&mut ring, Duration::from_secs(1));
    let gradient = objectives
        .gradient(&med, &slice, &mut link)
        .map_err(|error| error.to_string())?;
    objectives.follow(&med, gradient.newest.as_ref());
    Ok(Step {
        itm_logits: itm_logits(&med, &memory, &rows),
        texts,
        own,
        memory,
        contrast,
        gradient,
        copies: copied,
        objectives,
        med,
    })
}

/// Logits and labels of the contrast.
fn matrices(
    med: &Med,
    own: &Features,
    copies: &Features,
    queue: &Queue,
    (ids, alpha): (&[u32], f64),
) -> SoftContrast {
    let samples = ids.len();
    let positive = |sample: usize, entry: usize| match entry.checked_sub(samples) {
        None => ids[entry] == ids[sample],
        Some(queued) => {
            let classes = queue.classes()[queued];
            classes.is_some_and(|classes| classes.picture == u64::from(ids[sample]))
        }
    };
    let hard = hard_targets(samples, samples + queue.capacity(), &positive, copies);
    let entries = queue.entries(copies);
    let temperature = med.temperature();
    contrast(own, copies, &entries, temperature, &hard, alpha, samples)
}

/// Each pair, each text with the other picture, each picture with the other text.
fn itm_logits(med: &Med, memory: &Memory, rows: &[Vec<u32>]) -> Tensor<2> {
    let texts: Vec<&[u32]> = [0, 1, 0, 1, 1, 0].map(|row: usize| &*rows[row]).to_vec();
    let pad = med.config().text_config.pad_token_id;
    med.match_logits(memory, &TokenBatch::new(&texts, pad), &[0, 1, 1, 0, 0, 1])
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("f32 tensor")
}

/// A matrix as an output.
fn matrix(name: &str, tensor: &Tensor<2>) -> (String, Array) {
    (name.into(), Array::float(&tensor.dims(), floats(tensor)))
}

impl Step {
    fn queue(&self) -> &Queue {
        let teacher = self.objectives.teacher();
        teacher.expect("a step has a teacher").queue()
    }

    /// The outputs that both kinds share.
    fn shared(&self) -> Outputs {
        let [i2t, t2i] = &self.contrast.targets;
        let losses = &self.gradient.losses;
        let each = losses
            .iter()
            .map(|(name, loss)| (format!("loss_{name}"), *loss));
        let sum = ("loss".to_owned(), losses.values().sum());
        let scalar = |(name, loss): (String, f64)| (name, Array::float(&[], vec![loss as f32]));
        let mut outputs: Outputs = each.chain([sum]).map(scalar).collect();
        let next = Array::int(&[1], vec![self.queue().next() as i64]);
        outputs.extend([
            matrix("sim_i2t_targets", i2t),
            matrix("sim_t2i_targets", t2i),
            matrix("itm_logits", &self.itm_logits),
            ("queue_ptr_after".into(), next),
        ]);
        outputs
    }
}

pub fn pretrain(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let parts = [Objective::Itc, Objective::Itm, Objective::Lm];
    // No two samples of pre-training share a picture.
    let ids = [u32::MAX - 1, u32::MAX];
    let step = step(case, setup, (MedParts::Both, &parts), Positives::Pair, &ids)?;
    let mut outputs = step.shared();
    let [i2t, t2i] = &step.contrast.logits;
    outputs.extend([matrix("sim_i2t", i2t), matrix("sim_t2i", t2i)]);
    let own: Vec<usize> = (0..step.texts.rows()).collect();
    let vocabulary = step.med.config().text_config.vocab_size;
    let shape = [step.texts.rows(), step.texts.padded_len(), vocabulary];
    let logits = step.med.lm_logits(&step.memory, &step.texts, &own);
    outputs.push(("decoder_logits".into(), Array::tensor(&shape, logits)));
    let layout = step.med.layout();
    let gradients = (&layout[..], &step.gradient.flat[..]);
    outputs.extend(named(case, "grad.", gradients, &|name| {
        blip::place(name, MedParts::Both, blip::Encoders::Online)
    }));
    let copies = (&step.copies.0[..], &step.copies.1[..]);
    outputs.extend(named(case, "after.", copies, &|name| {
        blip::place(name, MedParts::Both, blip::Encoders::Momentum)
    }));
    let names = ["image_queue_after", "text_queue_after"];
    for (name, features) in names.into_iter().zip(step.queue().features()) {
        let capacity = step.queue().capacity();
        let shape = [features.len() / capacity, capacity];
        let columns = transposed(features, capacity);
        outputs.push((name.into(), Array::float(&shape, columns)));
    }
    Ok(outputs)
}

/// The expected outputs behind `prefix`, from a flat vector with its layout. A shared parameter may be
/// asked for under the encoder's name.
fn named(
    case: &Case,
    prefix: &str,
    (layout, flat): (&[ParamSlice], &[f32]),
    place: &dyn Fn(&str) -> Option<names::Stored>,
) -> Outputs {
    let asked = case.expected.iter().filter_map(|(output, expected)| {
        let name = output.strip_prefix(prefix)?;
        let stored = |slice: &&ParamSlice| -> bool {
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
    let parts = [Objective::Itc, Objective::Itm];
    let ids = case.input("image_id")?.ints().iter();
    let ids: Vec<u32> = ids.map(|id| *id as u32).collect();
    let parts = (MedParts::Filter, &parts[..]);
    let step = step(case, setup, parts, Positives::Picture, &ids)?;
    let mut outputs = step.shared();
    // Of the batch alone and without copies: what the release draws hard negatives from.
    let cosines = step
        .own
        .images
        .clone()
        .matmul(step.own.texts.clone().transpose());
    let classes = step.queue().classes().iter();
    let pictures = classes.map(|entry| entry.map_or(-100, |entry| entry.picture as i64));
    outputs.extend([
        matrix("sim_i2t", &(cosines / step.med.temperature().unsqueeze())),
        (
            "idx_queue_after".into(),
            Array::int(&[1, step.queue().capacity()], pictures.collect()),
        ),
    ]);
    Ok(outputs)
}
