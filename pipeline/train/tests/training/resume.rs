//! A training that is stopped at whatever step, or whose ring breaks within one, and goes on from
//! its checkpoint is the undisturbed one, bit by bit, with momentum encoders and dropout as without;
//! one that cannot go on says why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capstan_collective::{Collective, RingError, SoloRing};
use capstan_model::config::SpecialIds;
use capstan_model::{DeviceSpec, ImagePreprocess, Network};
use capstan_plan::FailureKind;
use capstan_plan::id::{Digest, TextId};
use capstan_plan::results::{CurvePoint, TrainingStep};
use capstan_plan::stage::{self, Activation, Architecture, Family, Objective};
use capstan_train::momentum::{Buffers, Classes, Queue};
use capstan_train::network::drawn;
use capstan_train::{
    Checkpoints, Job, PictureSource, Pictures, Sample, SourceError, State, TrainError, Trained,
    Validator, Watch, train,
};

const SIDE: usize = 16;

struct Bars;

impl PictureSource for Bars {
    fn decoded(&mut self, pictures: &[usize]) -> Result<Vec<Vec<u8>>, SourceError> {
        let bar = |of: usize| (0..3 * SIDE * SIDE).map(move |at| ((at * (of + 3)) % 256) as u8);
        Ok(pictures.iter().map(|of| bar(*of).collect()).collect())
    }
}

pub(crate) fn settings(learning_rate: f64) -> stage::Train {
    toml_settings(&format!("learning_rate = {learning_rate:?}"))
}

fn toml_settings(line: &str) -> stage::Train {
    let json = format!(
        "{{\"data\": [], \"tokenizer\": \"t\", \"objectives\": [\"itc\", \"itm\", \"lm\"], \
         \"steps\": 12, \"global_batch\": 6, \"shift_px\": 2, \"brightness_jitter\": 0.1, \
         \"checkpoint_steps\": 5, {}}}",
        line.replacen("learning_rate =", "\"learning_rate\":", 1)
    );
    serde_json::from_str(&json).unwrap()
}

/// Momentum encoders, and a queue that no whole number of batches fills.
fn with_momentum() -> stage::Train {
    let momentum = stage::Distillation {
        rate: 0.8,
        queue: 15,
        alpha: 0.4,
        ramp_steps: Some(8),
    };
    stage::Train {
        momentum: Some(momentum),
        ..settings(1e-2)
    }
}

fn with_dropout() -> stage::Train {
    stage::Train {
        dropout: 0.2,
        ..with_momentum()
    }
}

fn network() -> Box<dyn Network> {
    let architecture = Architecture {
        family: Family::Blip,
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
    let objectives = [Objective::Itc, Objective::Itm, Objective::Lm];
    drawn(&architecture, &objectives, (30, &special), 2, &device).unwrap()
}

fn samples() -> Vec<Sample> {
    let sample = |index: u32| Sample {
        text_id: TextId(Digest::of(&index.to_le_bytes())),
        shard: index / 10,
        picture: index as usize / 2,
        tokens: [3]
            .into_iter()
            .chain((0..=index % 5).map(|w| 7 + (index * 3 + w) % 23))
            .chain([4])
            .collect(),
    };
    (0..20).map(sample).collect()
}

#[derive(Default)]
pub(crate) struct Kept(pub(crate) Vec<State>);

impl Checkpoints for Kept {
    fn save(&mut self, state: &State) -> Result<(), SourceError> {
        // Through the files, as a store would keep it.
        let folder = tempfile::tempdir().unwrap();
        state.write(folder.path()).unwrap();
        self.0.push(State::read(folder.path()).unwrap());
        Ok(())
    }
}

pub(crate) struct Outcome {
    pub(crate) result: Result<Trained, TrainError>,
    pub(crate) params: Vec<f32>,
    pub(crate) steps: Vec<TrainingStep>,
    pub(crate) kept: Kept,
}

/// A ring that breaks in the call after so many.
struct Breaking {
    calls_left: u64,
}

impl Breaking {
    fn call(&mut self) -> Result<(), RingError> {
        let left = self.calls_left.checked_sub(1).ok_or(RingError::Broken)?;
        self.calls_left = left;
        Ok(())
    }
}

impl Collective for Breaking {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        if let Err(error) = self.call() {
            // As a ring that breaks midway leaves them.
            values.fill(f32::NAN);
            return Err(error);
        }
        SoloRing.all_reduce_sum(values, deadline)
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        self.call()?;
        SoloRing.all_gather_bytes(bytes, deadline)
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        self.call()?;
        SoloRing.broadcast(values, root, deadline)
    }

    fn bytes_reduced(&self) -> u64 {
        0
    }
}

fn run(config: &stage::Train, resume: Option<State>, stop_at: Option<u64>) -> Outcome {
    run_on(&mut SoloRing, config, resume, stop_at)
}

fn run_on(
    ring: &mut dyn Collective,
    config: &stage::Train,
    resume: Option<State>,
    stop_at: Option<u64>,
) -> Outcome {
    run_with(ring, config, resume, stop_at, None)
}

pub(crate) fn run_with(
    ring: &mut dyn Collective,
    config: &stage::Train,
    resume: Option<State>,
    stop_at: Option<u64>,
    validator: Option<&mut dyn Validator>,
) -> Outcome {
    let limit = Duration::from_secs(10);
    run_within(limit, ring, config, resume, stop_at, validator)
}

pub(crate) fn run_within(
    ring_limit: Duration,
    ring: &mut dyn Collective,
    config: &stage::Train,
    resume: Option<State>,
    stop_at: Option<u64>,
    validator: Option<&mut dyn Validator>,
) -> Outcome {
    let (samples, mut network) = (samples(), network());
    let mut pictures = Pictures::new(Box::new(Bars), 10, 1 << 20);
    let (cancel, mut kept, mut steps) = (AtomicBool::new(false), Kept::default(), Vec::new());
    let job = Job {
        config,
        seed: 1,
        samples: &samples,
        rows: samples.len() as u64,
        prompt_tokens: 0,
        pictures: &mut pictures,
        preprocess: &ImagePreprocess::new(SIDE),
        ring_limit,
    };
    let watch = Watch {
        step: &mut |step: &TrainingStep| {
            steps.push(step.clone());
            cancel.store(stop_at == Some(step.step), Ordering::Relaxed);
        },
        checkpoints: Some(&mut kept),
        cancel: &cancel,
        before_update: None,
        validator: validator.map(|validator| validator as &mut dyn Validator),
    };
    let result = train(job, &mut *network, ring, resume, watch);
    Outcome {
        result,
        params: network.to_flat(),
        steps,
        kept,
    }
}

#[test]
fn a_resumed_training_is_the_undisturbed_one() {
    resumes_as_undisturbed(&settings(1e-2));
}

#[test]
fn a_resumed_training_with_momentum_is_the_undisturbed_one() {
    resumes_as_undisturbed(&with_momentum());
}

#[test]
fn a_resumed_training_with_dropout_is_the_undisturbed_one() {
    resumes_as_undisturbed(&with_dropout());
}

fn resumes_as_undisturbed(config: &stage::Train) {
    let whole = run(config, None, None);
    let training = whole.result.unwrap().training;
    assert_eq!(
        whole.kept.0.iter().map(|s| s.step).collect::<Vec<_>>(),
        [5, 10]
    );
    assert_eq!(whole.steps.len(), 12);
    assert_eq!(training.samples, 20);

    // Right after a checkpoint, between two, and after the last one.
    for stop_at in [0, 4, 7, 10] {
        let stopped = run(config, None, Some(stop_at));
        let done = stop_at + 1;
        assert!(
            matches!(stopped.result, Err(TrainError::Cancelled { step }) if step == done),
            "{:?}",
            stopped.result
        );
        let state = stopped.kept.0.last().unwrap().clone();
        assert_eq!(state.step, done, "the last applied step is saved");
        let times = stopped.kept.0.iter().filter(|kept| kept.step == done);
        assert_eq!(times.count(), 1, "and saved once");
        goes_on_as(config, state, &whole.params, &whole.steps, &training.curve);
    }
}

#[test]
fn every_buffer_of_a_checkpoint_shapes_what_follows() {
    let config = with_momentum();
    let whole = run(&config, None, None);
    let state = whole.kept.0.into_iter().next().unwrap();
    let go_on = |change: &dyn Fn(&mut Buffers)| {
        let mut state = state.clone();
        change(state.buffers.as_mut().unwrap());
        run(&config, Some(state), None).params
    };
    assert_eq!(go_on(&|_| ()), whole.params);
    let changed = |change: fn(&mut Parts)| {
        go_on(&|buffers: &mut Buffers| {
            let mut parts = Parts::of(&buffers.queue);
            change(&mut parts);
            buffers.queue = parts.queue();
        })
    };
    for params in [
        go_on(&|buffers| buffers.copies.iter_mut().for_each(|copy| *copy *= 1.01)),
        changed(|parts| parts.images[3] += 0.1),
        changed(|parts| parts.texts[3] += 0.1),
        changed(|parts| parts.classes.fill(None)),
        changed(|parts| parts.next += 1),
    ] {
        assert_ne!(params, whole.params);
    }
}

/// A queue in parts.
struct Parts {
    images: Vec<f32>,
    texts: Vec<f32>,
    width: usize,
    classes: Vec<Option<Classes>>,
    next: usize,
}

impl Parts {
    fn of(queue: &Queue) -> Self {
        let [images, texts] = queue.features().map(<[f32]>::to_vec);
        Self {
            images,
            texts,
            width: queue.width(),
            classes: queue.classes().to_vec(),
            next: queue.next(),
        }
    }

    fn queue(self) -> Queue {
        let (images, texts) = (self.images, self.texts);
        Queue::from_parts(images, texts, self.width, self.classes, self.next).unwrap()
    }
}

#[test]
fn a_training_whose_ring_breaks_loses_no_applied_step() {
    applied_steps_are_kept(&settings(1e-2));
}

#[test]
fn a_training_with_momentum_whose_ring_breaks_loses_no_applied_step() {
    applied_steps_are_kept(&with_momentum());
}

fn applied_steps_are_kept(config: &stage::Train) {
    let whole = run(config, None, None);
    let curve = whole.result.unwrap().training.curve;
    let mut steps_seen = Vec::new();
    // Every call of a ring within three steps, and the last barrier.
    let mut counted = Breaking {
        calls_left: u64::MAX,
    };
    run_on(&mut counted, config, None, None).result.unwrap();
    let calls = u64::MAX - counted.calls_left;
    for calls_left in (calls / 2..calls / 2 + calls / 4).chain([calls - 1]) {
        let mut ring = Breaking { calls_left };
        let broken = run_on(&mut ring, config, None, None);
        let Err(TrainError::Ring { step, .. }) = broken.result else {
            panic!("{:?}", broken.result);
        };
        assert_eq!(broken.steps.len() as u64, step);
        let state = broken.kept.0.last().unwrap().clone();
        assert_eq!(state.step, step);
        if steps_seen.last() != Some(&step) {
            goes_on_as(config, state, &whole.params, &whole.steps, &curve);
            steps_seen.push(step);
        }
    }
    assert!(steps_seen.len() >= 3, "{steps_seen:?}");
    assert_eq!(
        steps_seen.last(),
        Some(&12),
        "the last barrier is one of them"
    );
}

/// Going on from `state` gives the bits, losses and curve of the undisturbed training.
fn goes_on_as(
    config: &stage::Train,
    state: State,
    params: &[f32],
    steps: &[TrainingStep],
    curve: &[CurvePoint],
) {
    let from = state.step;
    let resumed = run(config, Some(state), None);
    assert_eq!(resumed.result.unwrap().training.curve, curve);
    let bits = |params: &[f32]| params.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&resumed.params), bits(params));
    let losses = |steps: &[TrainingStep]| steps.iter().map(|s| s.loss).collect::<Vec<_>>();
    assert_eq!(losses(&resumed.steps), losses(steps)[from as usize..]);
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_name() {
    let outcome = run(&settings(1e30), None, None);
    let error = outcome.result.unwrap_err();
    let TrainError::NotFinite { step, loss } = &error else {
        panic!("{error}")
    };
    assert!(
        *step > 0 && ["itc", "itm", "lm", "gradient"].contains(loss),
        "{error}"
    );
    assert_eq!(error.kind(), FailureKind::BadInput);
}

#[test]
fn foreign_states_are_refused() {
    let config = settings(1e-2);
    let state = run(&config, None, Some(6)).kept.0.remove(0);
    let foreign = [
        State {
            layout: "another".to_owned(),
            ..state.clone()
        },
        State {
            step: 13,
            ..state.clone()
        },
        State {
            curve: vec![0.0; 3],
            ..state.clone()
        },
    ];
    let momentum = with_momentum();
    let with_buffers = run(&momentum, None, Some(6)).kept.0.remove(0);
    let mut smaller = with_buffers.clone();
    if let Some(buffers) = &mut smaller.buffers {
        buffers.queue = Queue::drawn(14, buffers.queue.width(), 1);
    }
    let foreign = foreign.map(|state| (&config, state));
    for (config, state) in foreign.into_iter().chain([
        (&config, with_buffers),
        (&momentum, state),
        (&momentum, smaller),
    ]) {
        let result = run(config, Some(state), None).result;
        assert!(
            matches!(result, Err(TrainError::ForeignState { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn settings_that_contradict_are_refused_by_name() {
    let refused = |config: &stage::Train| match run(config, None, None).result {
        Err(TrainError::Settings { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(&stage::Train {
            objectives: vec![],
            ..settings(1e-3)
        }),
        "objectives"
    );
    assert_eq!(
        refused(&stage::Train {
            global_batch: 0,
            ..settings(1e-3)
        }),
        "global_batch"
    );
}
