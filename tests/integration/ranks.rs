//! World sizes 1, 2 and 3 compute the same training. From equal weights and one global batch with texts
//! of different lengths, the gradients of step 0 and the losses of 50 steps agree. Injected faults
//! (detached gathered features, an average in place of a sum) make the comparison fail.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use capstan_collective::{Collective, Ring, RingEpoch, RingError, RingPlan, Secret, SoloRing};
use capstan_dataset::sampler::rank_slice;
use capstan_model::config::SpecialIds;
use capstan_model::params::ParamSlice;
use capstan_model::{DeviceSpec, ImagePreprocess, Network};
use capstan_plan::id::{Digest, TextId};
use capstan_plan::stage::{self, Activation, Architecture, Distillation, Family, Objective};
use capstan_train::momentum::Teacher;
use capstan_train::network::drawn;
use capstan_train::objective::{Gradient, Objectives, Slice};
use capstan_train::{
    Job, Link, PictureSource, Pictures, RankPool, Sample, SourceError, Watch, train,
};

const GLOBAL_BATCH: usize = 12;
const SIDE: usize = 32;
const PROJECTION: usize = 16;
const VOCABULARY: usize = 40;
const SPECIAL: SpecialIds = SpecialIds {
    pad: 0,
    unk: 1,
    cls: 3,
    sep: 4,
    dec: 5,
    enc: 6,
};
const LIMIT: Duration = Duration::from_secs(60);

/// A fault that a ring injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The gradient of gathered features is not summed over ranks.
    DetachFeatures,
    /// The gradient of gathered features is averaged over ranks.
    AverageFeatures,
    /// The gradient of the parameters is averaged over ranks.
    AverageGradient,
}

/// A ring with a fault. The length of the reduced slice tells features from parameters.
struct Faulty<C> {
    ring: C,
    fault: Fault,
    params: usize,
}

impl<C: Collective> Collective for Faulty<C> {
    fn rank(&self) -> usize {
        self.ring.rank()
    }

    fn world_size(&self) -> usize {
        self.ring.world_size()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        let features = values.len() == 2 * GLOBAL_BATCH * PROJECTION;
        if features && self.fault == Fault::DetachFeatures {
            return Ok(());
        }
        self.ring.all_reduce_sum(values, deadline)?;
        let averaged = match self.fault {
            Fault::AverageFeatures if features => values.len(),
            // The losses follow the gradient and are summed correctly.
            Fault::AverageGradient if values.len() > self.params => self.params,
            _ => 0,
        };
        let world_size = self.world_size() as f32;
        values[..averaged]
            .iter_mut()
            .for_each(|value| *value /= world_size);
        Ok(())
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        self.ring.all_gather_bytes(bytes, deadline)
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        self.ring.broadcast(values, root, deadline)
    }

    fn bytes_reduced(&self) -> u64 {
        self.ring.bytes_reduced()
    }
}

/// Runs `work` on every rank of a real ring of threads; returns the results in rank order.
fn on_ranks<T: Send>(world_size: usize, work: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    if world_size == 1 {
        return vec![work(&mut SoloRing)];
    }
    let listeners: Vec<TcpListener> = (0..world_size)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let plan = RingPlan {
                    run: "ranks".to_owned(),
                    ring_epoch: RingEpoch {
                        generation: 1,
                        counter: 1,
                    },
                    rank,
                    world_size,
                    peers: peers.clone(),
                    secret: Secret([9; 32]),
                };
                let work = &work;
                scope.spawn(move || {
                    let deadline = Instant::now() + LIMIT;
                    work(&mut Ring::connect(&plan, listener, 0, deadline).unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clip,
    Blip,
    /// BLIP as its recipe has it: with momentum encoders, a queue (one that no whole number of batches
    /// fills) and dropout.
    Recipe,
}

fn settings(kind: Kind) -> stage::Train {
    let objectives = match kind {
        Kind::Clip => r#"["itc"]"#,
        Kind::Blip | Kind::Recipe => r#"["itc", "itm", "lm"]"#,
    };
    let text = format!(
        r#"{{"data": [], "tokenizer": "t", "objectives": {objectives}, "steps": 50,
        "global_batch": {GLOBAL_BATCH}, "learning_rate": 1e-3, "label_smoothing": 0.1,
        "shift_px": 2, "brightness_jitter": 0.15, "checkpoint_steps": 0}}"#
    );
    let momentum = (kind == Kind::Recipe).then_some(Distillation {
        rate: 0.9,
        queue: 30,
        alpha: 0.4,
        ramp_steps: Some(20),
    });
    stage::Train {
        momentum,
        dropout: if kind == Kind::Recipe { 0.1 } else { 0.0 },
        ..serde_json::from_str(&text).unwrap()
    }
}

fn network(kind: Kind, objectives: &[Objective]) -> Box<dyn Network> {
    let architecture = Architecture {
        family: match kind {
            Kind::Clip => Family::Clip,
            Kind::Blip | Kind::Recipe => Family::Blip,
        },
        image_size: SIDE,
        patch_size: 16,
        width: 32,
        heads: 4,
        vision_layers: 2,
        text_layers: 2,
        projection: PROJECTION,
        max_text_tokens: 12,
        text_width: None,
        text_heads: None,
        mlp_ratio: 4.0,
        text_mlp_ratio: None,
        activation: Activation::Gelu,
        norm_epsilon: None,
    };
    let device = DeviceSpec::Cpu.open().unwrap().autodiff();
    drawn(
        &architecture,
        objectives,
        (VOCABULARY, &SPECIAL),
        5,
        &device,
    )
    .unwrap()
}

fn byte(of: usize, place: usize) -> u8 {
    ((of + 1)
        .wrapping_mul(2_654_435_761)
        .wrapping_add(place * 40_503)
        >> 7) as u8
}

/// Samples with texts of 3 to 12 tokens; every seventh has the text of the sample before.
fn samples(count: usize) -> Vec<Sample> {
    let text = |of: usize| -> Vec<u32> {
        let words = 1 + (of * of + of / 3) % 10;
        let word = |place| 7 + u32::from(byte(of, 1000 + place)) % (VOCABULARY as u32 - 7);
        [SPECIAL.cls]
            .into_iter()
            .chain((0..words).map(word))
            .chain([SPECIAL.sep])
            .collect()
    };
    (0..count)
        .map(|index| Sample {
            text_id: TextId(Digest::of(&(index as u64).to_le_bytes())),
            shard: (index / 30) as u32,
            picture: index,
            tokens: text(if index % 7 == 6 { index - 1 } else { index }),
        })
        .collect()
}

struct Noise;

impl PictureSource for Noise {
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        let picture = |of: usize| (0..3 * SIDE * SIDE).map(|at| byte(of, at)).collect();
        Ok(pictures.iter().map(|of| picture(*of)).collect())
    }
}

/// The gradient of step 0 for a world size, and the range of each tensor in it.
fn first_gradient(kind: Kind, world_size: usize, fault: Fault) -> (Gradient, Vec<ParamSlice>) {
    let settings = settings(kind);
    let samples = samples(GLOBAL_BATCH);
    let mut gradients = on_ranks(world_size, |ring| {
        let network = network(kind, &settings.objectives);
        let (rank, world_size) = (ring.rank(), ring.world_size());
        let mut ring = Faulty {
            ring: Borrowed(ring),
            fault,
            params: network.num_trained(),
        };
        let range = rank_slice(GLOBAL_BATCH, rank, world_size);
        let slice = Slice {
            step: 0,
            pixels: range
                .clone()
                .flat_map(|of| {
                    (0..3 * SIDE * SIDE).map(move |at| f32::from(byte(of, at)) / 128.0 - 1.0)
                })
                .collect(),
            tokens: samples[range.clone()]
                .iter()
                .map(|sample| sample.tokens.clone())
                .collect(),
            pictures: range.clone().map(|of| of as u32).collect(),
            range,
        };
        let objectives = Objectives::new(
            &settings.objectives,
            settings.positives,
            (settings.label_smoothing, 0),
            3,
        );
        let teacher = Teacher::at_start(&*network, &settings, samples.len(), 3).unwrap();
        let objectives = objectives
            .with_dropout(settings.dropout)
            .with_teacher(teacher);
        RankPool::new(rank, 1).unwrap().run(|| {
            let mut link = Link::new(&mut ring, LIMIT);
            objectives.gradient(&*network, &slice, &mut link).unwrap()
        })
    });
    let layout = network(kind, &settings.objectives).layout();
    let first = gradients.remove(0);
    for other in gradients {
        let bits = |g: &Gradient| g.flat.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&first) == bits(&other),
            "ranks computed different gradients"
        );
        let equal = first.newest == other.newest;
        assert!(equal, "ranks have different features for their queues");
    }
    (first, layout)
}

/// A borrowed ring.
struct Borrowed<'a>(&'a mut dyn Collective);

impl Collective for Borrowed<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world_size(&self) -> usize {
        self.0.world_size()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        self.0.all_reduce_sum(values, deadline)
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        self.0.all_gather_bytes(bytes, deadline)
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        self.0.broadcast(values, root, deadline)
    }

    fn bytes_reduced(&self) -> u64 {
        self.0.bytes_reduced()
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Tensors whose gradients differ by more than 1e-4 of their norm + 1e-6 of the global norm.
fn disagreements(layout: &[ParamSlice], want: &Gradient, got: &Gradient) -> Vec<String> {
    let global = norm(want.flat.iter().map(|x| f64::from(*x)));
    assert!(global > 0.0 && global.is_finite());
    let mut out = Vec::new();
    for slice in layout {
        let (want, got) = (
            &want.flat[slice.range.clone()],
            &got.flat[slice.range.clone()],
        );
        let own = norm(want.iter().map(|x| f64::from(*x)));
        let difference = norm(
            want.iter()
                .zip(got)
                .map(|(w, g)| f64::from(*w) - f64::from(*g)),
        );
        if difference.is_nan() || difference > 1e-4 * own + 1e-6 * global {
            out.push(format!("{}: {difference:e} of {own:e}", slice.name));
        }
    }
    out
}

fn check_gradients(kind: Kind) {
    let (alone, layout) = first_gradient(kind, 1, Fault::None);
    for world_size in [2, 3] {
        let (got, _) = first_gradient(kind, world_size, Fault::None);
        let wrong = disagreements(&layout, &alone, &got);
        assert!(wrong.is_empty(), "world size {world_size}: {wrong:#?}");
        for (name, loss) in &alone.losses {
            let other = got.losses[name];
            assert!(
                (loss - other).abs() <= 1e-5 * loss.abs(),
                "{name}: {loss} and {other}"
            );
        }
    }
}

fn check_fault(kind: Kind, fault: Fault) {
    let (alone, layout) = first_gradient(kind, 1, fault);
    for world_size in [2, 3] {
        let (got, _) = first_gradient(kind, world_size, fault);
        let wrong = disagreements(&layout, &alone, &got);
        let encoders = wrong.iter().filter(|line| line.contains("layer")).count();
        assert!(
            encoders > 0,
            "{kind:?}, world size {world_size}: {fault:?} was not detected"
        );
    }
}

#[test]
fn first_gradients_of_clip_agree() {
    check_gradients(Kind::Clip);
}

#[test]
fn first_gradients_of_blip_agree() {
    check_gradients(Kind::Blip);
}

#[test]
fn first_gradients_of_blip_by_its_recipe_agree() {
    check_gradients(Kind::Recipe);
}

#[test]
fn every_parameter_of_blip_has_a_gradient() {
    let (gradient, layout) = first_gradient(Kind::Blip, 2, Fault::None);
    assert_eq!(
        gradient.losses.keys().copied().collect::<Vec<_>>(),
        ["itc", "itm", "lm"]
    );
    let idle: Vec<&str> = layout
        .iter()
        .filter(|slice| gradient.flat[slice.range.clone()].iter().all(|x| *x == 0.0))
        .map(|slice| slice.name.as_str())
        .collect();
    assert!(idle.is_empty(), "without gradient: {idle:?}");
}

#[test]
fn detached_features_are_detected() {
    check_fault(Kind::Clip, Fault::DetachFeatures);
    check_fault(Kind::Blip, Fault::DetachFeatures);
}

#[test]
fn averaged_features_are_detected() {
    check_fault(Kind::Clip, Fault::AverageFeatures);
    check_fault(Kind::Blip, Fault::AverageFeatures);
}

#[test]
fn averaged_gradients_are_detected() {
    check_fault(Kind::Clip, Fault::AverageGradient);
    check_fault(Kind::Blip, Fault::AverageGradient);
}

/// The loss of each of the first 50 steps.
fn losses(kind: Kind, world_size: usize) -> Vec<f64> {
    let settings = settings(kind);
    let samples = samples(100);
    let mut all = on_ranks(world_size, |ring| {
        let mut network = network(kind, &settings.objectives);
        let mut pictures = Pictures::new(Box::new(Noise), samples.len(), 1 << 20);
        let job = Job {
            config: &settings,
            seed: 11,
            samples: &samples,
            rows: samples.len() as u64,
            prompt_tokens: 0,
            pictures: &mut pictures,
            preprocess: &ImagePreprocess::new(SIDE),
            ring_limit: LIMIT,
        };
        let mut losses = Vec::new();
        let watch = Watch {
            step: &mut |step| losses.push(step.loss),
            checkpoints: None,
            cancel: &AtomicBool::new(false),
            before_update: None,
            validator: None,
        };
        train(job, &mut *network, ring, None, watch).unwrap();
        losses
    });
    let first = all.remove(0);
    assert!(
        all.iter().all(|other| *other == first),
        "ranks report different losses"
    );
    assert_eq!(first.len(), 50);
    first
}

fn check_losses(kind: Kind) {
    let alone = losses(kind, 1);
    assert!(alone[49] < alone[0], "the loss did not fall: {alone:?}");
    for world_size in [2, 3] {
        for (step, (want, got)) in alone.iter().zip(losses(kind, world_size)).enumerate() {
            let apart = (want - got).abs() / want;
            assert!(
                apart <= 1e-3,
                "world size {world_size}, step {step}: {got} instead of {want}"
            );
        }
    }
}

#[test]
fn fifty_losses_of_clip_agree() {
    check_losses(Kind::Clip);
}

#[test]
fn fifty_losses_of_blip_agree() {
    check_losses(Kind::Blip);
}

#[test]
fn fifty_losses_of_blip_by_its_recipe_agree() {
    check_losses(Kind::Recipe);
}
