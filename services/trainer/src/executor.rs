//! The attempt of one rank, from its lease to its result.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use capstan_collective::{Breaker, Collective, Ring, RingPlan, deadline_after};
use capstan_dataset::{Store, models};
use capstan_lease::{Assignment, Control, Done, Executor, Failure, Turn};
use capstan_model::folder::Assets;
use capstan_plan::clock::Stopwatch;
use capstan_plan::commit::Outputs;
use capstan_plan::failure;
use capstan_plan::id::AttemptId;
use capstan_plan::results::TrainingStep;
use capstan_plan::stage::{Kind, TrainWork};
use capstan_plan::task::Work;
use capstan_runtime::fault;
use capstan_train::{Encoded, Job, Pictures, State, Trained, Validator, Watch, train};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::Options;
use crate::counts::Counts;
use crate::error::Error;
use crate::inputs::{Inputs, Training};
use crate::join::Rendezvous;
use crate::record::Record;
use crate::scratch::Scratch;
use crate::validation::{Measuring, ValidationSet};
use crate::{checkpoint, join, pictures};

/// How long a rank whose ring failed delays its report. The rank that caused the failure (it stops
/// or it failed) reports first, so that the scheduler treats the gang by the cause.
const REPORT_DELAY: Duration = Duration::from_secs(1);

/// Executes training tasks.
pub(crate) struct Trainer {
    options: Options,
    store: Store,
    /// One permit per slot. A computation that outlives its lease keeps its permit until it has
    /// ended, so that its checkpoint is in the store before the next attempt looks for one.
    slots: Arc<Semaphore>,
}

/// Everything that the computing thread owns.
struct Attempt {
    options: Options,
    store: Store,
    assignment: Assignment,
    control: Control,
    training: Training,
    inputs: Inputs,
    /// Of rank 0, where the stage names one.
    validation: Option<ValidationSet>,
    plan: RingPlan,
    listener: TcpListener,
    /// The state to resume from, the same on every rank.
    resume: Option<State>,
    scratch: Scratch,
    /// The permit of its slot, and the turns of its gang.
    _held: (OwnedSemaphorePermit, Turn),
}

/// The result of the computing thread.
struct Finished {
    trained: Trained,
    cpu_seconds: f64,
    wall_seconds: f64,
    folder: PathBuf,
    /// Keeps the folder until the model is in the store.
    _scratch: Scratch,
}

impl Trainer {
    pub(crate) fn new(options: Options, store: Store) -> Self {
        let slots = Arc::new(Semaphore::new(options.lease.slots.max(1)));
        Self {
            options,
            store,
            slots,
        }
    }

    async fn attempt(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Error> {
        // Before the first step there is nothing to save.
        let prepared = tokio::select! {
            () = control.stopped() => return Err(Error::Cancelled),
            prepared = self.prepare(assignment, control.clone()) => prepared?,
        };
        let rank = prepared.plan.rank;
        let digests = prepared.training.digests(&self.store).await?;
        let handle = Handle::current();
        let span = tracing::Span::current();
        let computed =
            tokio::task::spawn_blocking(move || span.in_scope(|| prepared.compute(handle)));
        let finished = computed
            .await
            .unwrap_or_else(|panic| Err(Error::Panicked(panic.to_string())))?;
        match rank {
            0 => self.store_model(finished, digests).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Everything before the ring: slot, inputs, checkpoint, rendezvous and turns.
    ///
    /// The rank holds no turn while it waits for the others at the rendezvous. Then the ranks of
    /// this process take their turns together.
    async fn prepare(&self, assignment: Assignment, control: Control) -> Result<Attempt, Error> {
        let task = assignment.task.clone();
        let (Kind::Train(config), Work::Train(work)) = (&*assignment.kind, task.work) else {
            return Err(Error::Role);
        };
        let TrainWork {
            data,
            tokenizer,
            init,
            towers,
            validation,
        } = work;
        let config = config.clone();
        control.progress.begin("steps", config.steps);
        let training = Training {
            config,
            data,
            tokenizer,
            init,
            towers,
            validation,
        };
        let slot = self.slots.clone().acquire_owned();
        let slot = slot.await.map_err(|_| Error::Cancelled)?;
        let scratch = Scratch::new(&self.options.cache, &assignment)?;
        let inputs = training.read(&self.store, &self.options.cache).await?;
        let validation = match assignment.rank() {
            0 => training.validation_set(&self.store).await?,
            _ => None,
        };
        let (store, run, stage) = (&self.store, &task.run, &task.stage);
        let found = checkpoint::latest(store, run, stage, scratch.path()).await?;
        let (listener, bound) = join::bind(self.options.listen)?;
        let applied = found.as_ref().map_or(0, |state| state.step);
        let threads = training.config.threads_per_rank;
        let seat = self.options.turns.seat(&assignment.lease.attempt, threads);
        let waiting = control.progress.wait();
        let Rendezvous { plan, step } = self.rendezvous(&assignment, bound, applied).await?;
        let turn = seat.take().await;
        drop(waiting);
        let resume = if step == applied {
            found
        } else {
            checkpoint::at_step(store, run, stage, step, scratch.path()).await?
        };
        Ok(Attempt {
            options: self.options.clone(),
            store: self.store.clone(),
            assignment,
            control,
            training,
            inputs,
            validation,
            plan,
            listener,
            resume,
            scratch,
            _held: (slot, turn),
        })
    }

    /// Finds the other ranks through the coordinator.
    ///
    /// - `bound`: the address of this rank's ring listener.
    /// - `applied`: steps that this rank's checkpoint contains.
    async fn rendezvous(
        &self,
        assignment: &Assignment,
        bound: SocketAddr,
        applied: u64,
    ) -> Result<Rendezvous, Error> {
        let advertised = self.options.advertise.map_or(bound, |mut address| {
            if address.port() == 0 {
                address.set_port(bound.port());
            }
            address
        });
        let endpoint = self.options.lease.endpoint();
        let endpoint = endpoint.map_err(|error| Error::Rendezvous(failure::chain(&error)))?;
        let worker = self.options.lease.worker.as_str();
        let (channel, limit) = (endpoint.connect_lazy(), self.options.ring_timeout);
        join::rendezvous(channel, worker, assignment, advertised, applied, limit).await
    }

    /// Uploads the model folder to the store.
    async fn store_model(
        &self,
        finished: Finished,
        inputs: Vec<capstan_plan::id::Digest>,
    ) -> Result<Done, Error> {
        fault::point("trainer.before_model");
        let model = models::put(&self.store, &finished.folder).await?;
        let outputs = Outputs {
            model: Some(model),
            training: Some(finished.trained.training),
            ..Outputs::default()
        };
        Ok(Done {
            outputs,
            inputs,
            cpu_seconds: finished.cpu_seconds,
            wall_seconds: finished.wall_seconds,
        })
    }
}

#[async_trait::async_trait]
impl Executor for Trainer {
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure> {
        let done = self.attempt(assignment, control.clone()).await;
        if matches!(&done, Err(error) if error.is_ring_failure()) {
            let _ = tokio::time::timeout(REPORT_DELAY, control.stopped()).await;
        }
        done.map_err(|error| Failure::new(error.kind(), &error))
    }
}

impl Attempt {
    /// Forms the ring and trains. Blocks until the last step of the slowest rank.
    fn compute(mut self, handle: Handle) -> Result<Finished, Error> {
        let began = Stopwatch::start();
        let first = self.resume.as_ref().map_or(0, |state| state.step);
        let limit = self.options.ring_timeout;
        let identity = self.options.lease.identity.as_ref();
        let cancel = Arc::new(AtomicBool::new(false));
        let breaker = Arc::new(OnceLock::new());
        let watching = self.watch_stop(&handle, &cancel, &breaker);
        let (plan, listener) = (&self.plan, &self.listener);
        let mut ring = join::connect(plan, listener, first, limit, identity, &cancel)?;
        // Only this thread sets the breaker. If the attempt was cancelled earlier, the `cancel`
        // flag stops it.
        let _ = breaker.set(ring.breaker()?);
        let device = self.options.device.open()?.autodiff();
        let seed = self.assignment.task.seed;
        let (mut network, preprocess) = self.training.network(&self.inputs, seed, &device)?;
        let mut pictures = self.pictures(&preprocess, &handle);
        let record = match ring.rank() {
            0 => Some(self.record(first)?),
            _ => None,
        };
        let progress = self.control.progress.clone();
        progress.resume_at(first);
        let counts = Counts::new(
            &self.assignment.task.stage,
            self.samples_per_step(ring.world_size()),
        );
        let mut on_step = |step: &TrainingStep| {
            progress.set(step.step + 1);
            counts.step(step);
            if let Some(record) = &record {
                record.step(step);
            }
        };
        let mut writer = (ring.rank() == 0).then(|| self.checkpoint_writer(&handle));
        let set = self.validation.take();
        let mut measuring = set.zip(record.as_ref()).map(|(set, record)| Measuring {
            set,
            tokenizer: &self.inputs.tokenizer,
            preprocess: &preprocess,
            seed,
            progress: self.control.progress.clone(),
            record,
        });
        let job = Job {
            config: &self.training.config,
            seed,
            samples: &self.inputs.samples,
            prompt_tokens: self.inputs.prompt_tokens,
            rows: self.inputs.parts.iter().map(|part| part.base.rows).sum(),
            pictures: &mut pictures,
            preprocess: &preprocess,
            ring_limit: limit,
        };
        let watch = Watch {
            step: &mut on_step,
            checkpoints: writer
                .as_mut()
                .map(|writer| writer as &mut dyn capstan_train::Checkpoints),
            cancel: &cancel,
            before_update: Some(&|_: u64| fault::point("trainer.mid_step")),
            validator: measuring
                .as_mut()
                .map(|measuring| measuring as &mut dyn Validator),
        };
        let trained = train(job, &mut *network, &mut ring, self.resume.take(), watch);
        drop(watching);
        let trained = trained?;
        record.map_or(Ok(()), Record::finish)?;
        let cpu_seconds = self.cpu_of_all_ranks(&mut ring, &trained);
        let folder = self.scratch.path().join("model");
        if ring.rank() == 0 {
            let tokenizer = Some(&self.inputs.tokenizer);
            std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
            network.save(
                &folder,
                &Assets {
                    tokenizer,
                    preprocess: Some(&preprocess),
                },
            )?;
        }
        Ok(Finished {
            trained,
            cpu_seconds,
            wall_seconds: began.seconds(),
            folder,
            _scratch: self.scratch,
        })
    }

    fn pictures(&self, preprocess: &capstan_model::ImagePreprocess, handle: &Handle) -> Pictures {
        let (parts, rows) = (self.inputs.parts.clone(), self.inputs.rows.clone());
        let count = rows.len();
        let store = pictures::FromStore::new(self.store.clone(), handle.clone(), parts);
        let source = Encoded::new(preprocess.clone(), pictures::Fetch::new(store, rows));
        Pictures::new(Box::new(source), count, self.options.picture_bytes)
    }

    /// Sets `flag` when the trainer stops or the lease is lost. The flag stops the joining, or the
    /// loop before its next step.
    ///
    /// A rank that waits for another rank within a step does not check the flag. Its ring is ended
    /// half of the grace period later, or immediately if the lease is lost, so that rank 0 has time
    /// to save its last applied step.
    fn watch_stop(
        &self,
        handle: &Handle,
        flag: &Arc<AtomicBool>,
        breaker: &Arc<OnceLock<Breaker>>,
    ) -> AbortOnDropHandle<()> {
        let (control, flag, breaker) = (self.control.clone(), flag.clone(), breaker.clone());
        let patience = self.options.lease.grace / 2;
        AbortOnDropHandle::new(handle.spawn(async move {
            control.stopped().await;
            flag.store(true, Ordering::Relaxed);
            let _ = tokio::time::timeout(patience, control.cancel.cancelled()).await;
            breaker.get().inspect(|breaker| breaker.end());
        }))
    }

    /// This rank's share of a global batch.
    fn samples_per_step(&self, world_size: usize) -> u64 {
        (self.training.config.global_batch / world_size) as u64
    }

    fn record(&self, step: u64) -> Result<Record, Error> {
        let task = &self.assignment.task;
        let batch = self.training.config.global_batch;
        let (folder, stage) = (&self.options.metrics, (&task.run, &task.stage));
        Record::open(folder, stage, step, batch)
    }

    fn checkpoint_writer(&self, handle: &Handle) -> checkpoint::Writer {
        let task = &self.assignment.task;
        checkpoint::Writer {
            store: self.store.clone(),
            handle: handle.clone(),
            run: task.run.clone(),
            stage: task.stage.clone(),
            attempt: AttemptId(self.assignment.lease.attempt.clone()),
            scratch: self.scratch.path().to_owned(),
        }
    }

    /// CPU seconds summed over all ranks, for the commit record. If a rank has left the ring by
    /// now, only this rank's time is known; the model is complete all the same.
    fn cpu_of_all_ranks(&self, ring: &mut Ring, trained: &Trained) -> f64 {
        let own = trained.cpu.as_secs_f32();
        let deadline = deadline_after(self.options.ring_timeout);
        match ring.all_gather(&[own], deadline) {
            Ok(all) => all.iter().flatten().map(|s| f64::from(*s)).sum(),
            Err(error) => {
                tracing::warn!(
                    error = failure::chain(&error),
                    "cannot sum the CPU time of all ranks"
                );
                f64::from(own)
            }
        }
    }
}
