//! The step loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capstan_dataset::sampler::{SampleKey, Sampler};
use capstan_model::{ImagePreprocess, Network};
use capstan_plan::FailureKind;
use capstan_plan::clock::Stopwatch;
use capstan_plan::failure;
use capstan_plan::results::{Training, TrainingStep};
use capstan_plan::stage;

use crate::loader::{Batches, Loader, Prepared};
use crate::momentum::Teacher;
use crate::objective::{Gradient, Objectives};
use crate::validation::Validation;
use crate::{
    AdamW, AdamWConfig, Augment, Curve, Link, Pictures, RankPool, Sample, Schedule, State,
    TrainError, Validator, clip_factor, global_norm, network,
};

/// What is trained on, and how.
pub struct Job<'a> {
    /// The stage's settings; `world_size` is the ring's to know.
    pub config: &'a stage::Train,
    /// Seed of order, augmentation and hard negatives.
    pub seed: u64,
    /// All samples, the same on every rank.
    pub samples: &'a [Sample],
    /// Rows of the base files that they are of.
    pub rows: u64,
    /// Tokens at the start of every text that are read and not learned; 0 without a prompt.
    pub prompt_tokens: usize,
    /// Their pictures.
    pub pictures: &'a mut Pictures,
    /// How the model takes pictures.
    pub preprocess: &'a ImagePreprocess,
    /// Limit of one operation of the ring, the wait for slower ranks included.
    pub ring_limit: Duration,
}

/// Where checkpoints go.
pub trait Checkpoints: Send {
    /// Saves `state`, visible only once it is whole. Called on rank 0 alone.
    ///
    /// # Errors
    /// [`crate::SourceError`] with the kind of the failure.
    fn save(&mut self, state: &State) -> Result<(), crate::SourceError>;
}

/// What looks on while a training runs.
pub struct Watch<'a> {
    /// Told of every step.
    pub step: &'a mut (dyn FnMut(&TrainingStep) + Send),
    /// Where checkpoints go; none are written where absent.
    pub checkpoints: Option<&'a mut dyn Checkpoints>,
    /// Set to stop before the next step.
    pub cancel: &'a AtomicBool,
    /// Told of every step whose gradient is summed over the ranks and not applied yet.
    pub before_update: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Measures the model; rank 0 needs one where the stage has `validate`.
    pub validator: Option<&'a mut dyn Validator>,
}

/// A training that is over; the network holds its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Figures for the commit.
    pub training: Training,
    /// CPU time of this rank's threads in this attempt, those that load pictures included.
    pub cpu: Duration,
}

/// Trains `network` on this rank's part of every global batch.
///
/// Every rank calls it with equal arguments but for `ring`; all end with equal bits, except that rank 0
/// alone ends with the best weights where the stage keeps these. Computes on
/// a pool of `config.threads_per_rank` threads of its own, and loads the pictures of coming steps on
/// as many others.
///
/// A training that is cancelled, or whose ring breaks, has still applied whole steps alone: rank 0
/// saves the state after the last of them before the error is given.
///
/// - `resume`: the state to go on from, the same on every rank.
///
/// # Errors
/// [`TrainError`]; [`TrainError::NotFinite`] names the step and the loss.
pub fn train(
    job: Job<'_>,
    network: &mut dyn Network,
    ring: &mut dyn capstan_collective::Collective,
    resume: Option<State>,
    watch: Watch<'_>,
) -> Result<Trained, TrainError> {
    check(&job, network, ring.world_size())?;
    let config = job.config;
    if config.validate.is_some() && ring.rank() == 0 && watch.validator.is_none() {
        return Err(TrainError::Settings {
            field: "validate",
            problem: "rank 0 has nothing to measure the model with".to_owned(),
        });
    }
    let pool = RankPool::new(ring.rank(), config.threads_per_rank)?;
    let loading = RankPool::loading(ring.rank(), config.threads_per_rank)?;
    let settings = Settings {
        config,
        seed: job.seed,
        samples: job.samples.len(),
        prompt_tokens: job.prompt_tokens,
    };
    let link = Link::new(ring, job.ring_limit);
    let loader = loader(job, &link)?;
    let first = resume.as_ref().map_or(0, |state| state.step);
    let (queue, batches) = loader.queue(config.global_batch);
    let training = std::thread::scope(|scope| {
        scope.spawn(|| loading.run(|| loader.run(first..config.steps, &queue)));
        pool.run(|| Loop::new(settings, batches, network, link, resume)?.run(watch))
    })?;
    Ok(Trained {
        training,
        cpu: pool.cpu_time() + loading.cpu_time(),
    })
}

/// What prepares the batches of this rank.
fn loader<'a>(job: Job<'a>, link: &Link<'_>) -> Result<Loader<'a>, TrainError> {
    let config = job.config;
    let key = |sample: &Sample| SampleKey {
        text_id: sample.text_id,
        length: sample.tokens.len() as u32,
        shard: sample.shard,
    };
    let keys = job.samples.iter().map(key).collect();
    let (batch, bucket) = (config.global_batch, config.length_bucket);
    let sampler = Sampler::new(keys, job.rows, batch, bucket, job.seed);
    let sampler = sampler.map_err(|error| TrainError::Settings {
        field: "data",
        problem: error.to_string(),
    })?;
    Ok(Loader {
        samples: job.samples,
        pictures: job.pictures,
        sampler,
        augment: Augment::new(job.seed, config, job.preprocess),
        rank: link.rank(),
        world_size: link.world_size(),
        side: job.preprocess.side,
    })
}

/// Refuses settings that contradict each other, the samples or the ring.
fn check(job: &Job<'_>, network: &dyn Network, world_size: usize) -> Result<(), TrainError> {
    let config = job.config;
    let wrong = |field, problem: String| Err(TrainError::Settings { field, problem });
    if config.objectives.is_empty() {
        return wrong("objectives", "name at least one of itc, itm, lm".to_owned());
    }
    network::check(network, config)?;
    if job
        .samples
        .iter()
        .any(|sample| sample.tokens.len() <= job.prompt_tokens)
    {
        let problem = format!(
            "a text of the prompt's {} tokens has nothing to learn: shorten it, or raise `text_tokens`",
            job.prompt_tokens
        );
        return wrong("prompt", problem);
    }
    if config.global_batch < world_size {
        let problem = format!(
            "{} is less than a sample for each of {world_size} ranks",
            config.global_batch
        );
        return wrong("global_batch", problem);
    }
    let longest = job
        .samples
        .iter()
        .map(|sample| sample.tokens.len())
        .max()
        .unwrap_or(0);
    if longest > network.max_text_tokens() || job.samples.iter().any(|s| s.tokens.len() < 2) {
        let problem = format!(
            "texts of {longest} tokens at most do not fit: each must have 2 to {} tokens",
            network.max_text_tokens()
        );
        return wrong("data", problem);
    }
    if job.preprocess.side != network.image_size() {
        let problem = format!(
            "the model takes pictures of {} pixels, its preprocessing gives {}",
            network.image_size(),
            job.preprocess.side
        );
        return wrong("init", problem);
    }
    if job
        .samples
        .iter()
        .any(|sample| sample.picture >= job.pictures.len())
    {
        return wrong(
            "data",
            "a sample names a picture that is not there".to_owned(),
        );
    }
    Ok(())
}

fn schedule(config: &stage::Train) -> Schedule {
    let (peak, steps, last) = (config.learning_rate, config.steps, config.final_rate);
    match config.warmup_steps {
        Some(warmup) => Schedule::with_warmup_steps(peak, steps, warmup, last),
        None => Schedule::new(peak, steps, config.warmup, last),
    }
}

/// What the loop needs of a job beside its batches.
struct Settings<'a> {
    config: &'a stage::Train,
    seed: u64,
    /// How many samples there are.
    samples: usize,
    prompt_tokens: usize,
}

/// Everything that lives from step to step.
struct Loop<'a> {
    job: Settings<'a>,
    network: &'a mut dyn Network,
    link: Link<'a>,
    batches: Batches,
    objectives: Objectives,
    schedule: Schedule,
    optimizer: AdamW,
    curve: Curve,
    validation: Validation<'a>,
    step: u64,
    /// The step of the newest checkpoint.
    saved: u64,
    layout: String,
}

impl<'a> Loop<'a> {
    fn new(
        job: Settings<'a>,
        batches: Batches,
        network: &'a mut dyn Network,
        link: Link<'a>,
        resume: Option<State>,
    ) -> Result<Self, TrainError> {
        let config = job.config;
        let objectives = Objectives::new(
            &config.objectives,
            config.positives,
            (config.label_smoothing, job.prompt_tokens),
            job.seed,
        )
        .with_chunk(config.chunk)
        .with_dropout(config.dropout)
        .with_teacher(Teacher::at_start(network, config, job.samples, job.seed)?);
        let adamw = AdamWConfig {
            betas: config.betas,
            epsilon: config.epsilon,
            weight_decay: config.weight_decay,
        };
        let layout = network.layout();
        let decay = network::decay_of(config.decay);
        let mut this = Self {
            curve: Curve::new(config.steps, &objectives.names()),
            optimizer: AdamW::new(
                adamw,
                layout
                    .iter()
                    .map(|slice| (slice.range.len(), slice.decays(decay))),
            ),
            schedule: schedule(config),
            layout: network::layout_digest(network),
            validation: Validation::new(config),
            step: 0,
            saved: 0,
            batches,
            objectives,
            job,
            network,
            link,
        };
        if let Some(state) = resume {
            this.resume(state)?;
        }
        Ok(this)
    }

    fn resume(&mut self, state: State) -> Result<(), TrainError> {
        let foreign = |detail| {
            Err(TrainError::ForeignState {
                step: state.step,
                detail,
            })
        };
        if state.layout != self.layout || state.params.len() != self.optimizer.len() {
            return foreign("its parameters have other names or shapes");
        }
        if state.step > self.job.config.steps {
            return foreign("it has done more steps than the stage asks for");
        }
        if !self.curve.restore(state.curve) {
            return foreign("it was trained on other objectives");
        }
        let restored = match (self.objectives.teacher_mut(), state.buffers) {
            (Some(teacher), Some(buffers)) => teacher.restore(buffers),
            (None, None) => true,
            _ => false,
        };
        if !restored {
            return foreign("it was trained with other `momentum`");
        }
        let (rank, params) = (self.link.rank(), state.params.len());
        if !self.validation.restore(state.validation, rank, params) {
            return foreign("it was validated in another way");
        }
        self.optimizer
            .restore(state.first, state.second, state.updates);
        self.step = state.step;
        self.saved = state.step;
        self.network.load_flat(&state.params);
        Ok(())
    }

    fn run(mut self, mut watch: Watch<'_>) -> Result<Training, TrainError> {
        tracing::info!(
            rank = self.link.rank(),
            world_size = self.link.world_size(),
            params = self.optimizer.len(),
            samples = self.job.samples,
            step = self.step,
            steps = self.job.config.steps,
            "training begins"
        );
        if let Err(error) = self.steps(&mut watch) {
            self.keep_what_was_done(&error, &mut watch);
            return Err(error);
        }
        Ok(Training {
            world_size: self.link.world_size(),
            bytes_reduced: self.link.bytes_reduced(),
            samples: self.job.samples as u64,
            curve: self.curve.points(),
            validation: self.validation.publish(self.network),
        })
    }

    fn steps(&mut self, watch: &mut Watch<'_>) -> Result<(), TrainError> {
        // A training that stopped within a measurement left a checkpoint without it.
        self.validate(watch)?;
        loop {
            if watch.cancel.load(Ordering::Relaxed) {
                return Err(TrainError::Cancelled { step: self.step });
            }
            if self.step >= self.job.config.steps {
                break;
            }
            let step = self.one(watch.before_update)?;
            self.curve.add(&step);
            (watch.step)(&step);
            self.step += 1;
            self.validate(watch)?;
            let every = self.job.config.checkpoint_steps;
            if every > 0 && self.step.is_multiple_of(every) && self.step < self.job.config.steps {
                self.save(watch)?;
            }
        }
        // No rank reports success before all have done the last step.
        let step = self.step;
        self.link
            .barrier()
            .map_err(|source| TrainError::Ring { step, source })
    }

    /// Measures the model where that is due.
    fn validate(&mut self, watch: &mut Watch<'_>) -> Result<(), TrainError> {
        if !self.validation.is_due(self.step) {
            return Ok(());
        }
        let validator = watch.validator.as_deref_mut();
        let (network, link) = (&*self.network, &mut self.link);
        self.validation
            .measure(self.step, network, link, validator, watch.cancel)
    }

    /// Saves the last applied step of a training that cannot go on for a reason that lies outside
    /// of it. A step that failed changed nothing: the optimiser is not reached before the ring
    /// has given the whole gradient.
    fn keep_what_was_done(&mut self, error: &TrainError, watch: &mut Watch<'_>) {
        let from_outside = match error {
            TrainError::Cancelled { .. } | TrainError::Ring { .. } => true,
            TrainError::Picture { kind, .. } | TrainError::Validation { kind, .. } => {
                *kind == FailureKind::Transient
            }
            _ => false,
        };
        if !from_outside || self.step == self.saved {
            return;
        }
        // The attempt has failed already; what cannot be saved is done again.
        if let Err(lost) = self.save(watch) {
            tracing::warn!(
                step = self.step,
                error = failure::chain(&lost),
                "the last steps are lost"
            );
        }
    }

    fn save(&mut self, watch: &mut Watch<'_>) -> Result<(), TrainError> {
        self.saved = self.step;
        if self.link.rank() != 0 {
            return Ok(());
        }
        let Some(checkpoints) = watch.checkpoints.as_deref_mut() else {
            return Ok(());
        };
        let (first, second) = self.optimizer.take_moments();
        let state = State {
            step: self.step,
            updates: self.optimizer.updates(),
            layout: self.layout.clone(),
            params: self.network.to_flat(),
            first,
            second,
            curve: self.curve.sums().to_vec(),
            buffers: self.objectives.teacher_mut().map(Teacher::take_buffers),
            validation: self.validation.take(),
        };
        let saved = checkpoints.save(&state);
        self.validation.put_back(state.validation);
        self.optimizer
            .restore(state.first, state.second, state.updates);
        if let Some((teacher, buffers)) = self.objectives.teacher_mut().zip(state.buffers) {
            teacher.put_back(buffers);
        }
        saved.map_err(|error| TrainError::Save {
            step: self.step,
            kind: error.kind,
            source: error.source,
        })
    }

    /// One step: gradient of the global batch, clipped update, the same on every rank.
    fn one(
        &mut self,
        before_update: Option<&(dyn Fn(u64) + Sync)>,
    ) -> Result<TrainingStep, TrainError> {
        let start = Stopwatch::start();
        let batch = self.batches.recv();
        let Prepared { data_epoch, slice } = batch.expect("the loader gives every step")?;
        let step = self.step;
        let gradient = self
            .objectives
            .gradient(self.network, &slice, &mut self.link)
            .map_err(|source| TrainError::Ring { step, source })?;
        let norm = self.finite_norm(&gradient)?;
        if let Some(told) = before_update {
            told(step);
        }
        let learning_rate = self.schedule.learning_rate(step);
        let factor = clip_factor(norm, self.job.config.clip_norm);
        self.update(&gradient, factor, learning_rate);
        self.objectives
            .follow(self.network, gradient.newest.as_ref());
        Ok(TrainingStep {
            step,
            data_epoch,
            learning_rate,
            loss: gradient.losses.values().sum(),
            parts: gradient
                .losses
                .iter()
                .map(|(n, l)| ((*n).to_owned(), *l))
                .collect(),
            gradient_norm: norm,
            step_seconds: start.seconds(),
            all_reduce_seconds: self.link.take_spent().as_secs_f64(),
        })
    }

    fn update(&mut self, gradient: &Gradient, factor: f32, learning_rate: f64) {
        let scale = network::scale(self.network);
        let mut update = self.optimizer.begin(factor, learning_rate);
        self.network.update(&mut |range, params| {
            update.apply(range.clone(), params, &gradient.flat[range.clone()]);
            if let Some(scale) = scale
                && let Some(place) = scale.place.filter(|place| range.contains(place))
            {
                let param = &mut params[place - range.start];
                *param = scale.rule.bounded(*param);
            }
        });
    }

    /// The norm of a gradient that is a number, as are its losses.
    fn finite_norm(&self, gradient: &Gradient) -> Result<f64, TrainError> {
        let step = self.step;
        for (name, loss) in &gradient.losses {
            if !loss.is_finite() {
                return Err(TrainError::NotFinite { step, loss: name });
            }
        }
        let norm = global_norm(&gradient.flat);
        if norm.is_finite() {
            Ok(norm)
        } else {
            Err(TrainError::NotFinite {
                step,
                loss: "gradient",
            })
        }
    }
}
