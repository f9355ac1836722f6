//! One attempt of one rank, from its lease to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use capstan_collective::{Collective, Ring};
use capstan_dataset::{Store, models};
use capstan_lease::{Assignment, Control, Done, Executor, Failure};
use capstan_model::folder::Assets;
use capstan_plan::commit::Outputs;
use capstan_plan::id::AttemptId;
use capstan_plan::results::TrainingStep;
use capstan_plan::task::Work;
use capstan_train::{Encoded, Job, Metrics, Pictures, State, Trained, Watch, train};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::Endpoint;

use crate::Options;
use crate::error::Error;
use crate::inputs::{Inputs, Training};
use crate::{checkpoint, join, pictures};

/// Executes training tasks.
pub(crate) struct Trainer {
    options: Options,
    store: Store,
}

/// What the computing thread takes with it.
struct Attempt {
    options: Options,
    store: Store,
    assignment: Assignment,
    control: Control,
    training: Training,
    inputs: Inputs,
    resume: Option<State>,
    scratch: PathBuf,
}

/// What the computing thread gives back.
struct Finished {
    trained: Trained,
    cpu_seconds: f64,
    wall_seconds: f64,
    folder: PathBuf,
}

impl Trainer {
    pub(crate) fn new(options: Options, store: Store) -> Self {
        Self { options, store }
    }

    async fn attempt(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Error> {
        let task = assignment.task.clone();
        let Work::Train {
            config,
            data,
            tokenizer,
            init,
        } = task.work
        else {
            return Err(Error::Role);
        };
        control.progress.begin("steps", config.steps);
        let training = Training {
            config,
            data,
            tokenizer,
            init,
        };
        let scratch = self.scratch(&assignment)?;
        let inputs = training.read(&self.store, &self.options.cache).await?;
        let resume = checkpoint::latest(&self.store, &task.run, &task.stage, &scratch).await?;
        let step = resume.as_ref().map_or(0, |state| state.step);
        let turn = self
            .turn(&control, training.config.threads_per_rank)
            .await?;
        let (listener, bound) = join::bind(self.options.listen)?;
        let advertised = self.options.advertise.map_or(bound, |mut address| {
            if address.port() == 0 {
                address.set_port(bound.port());
            }
            address
        });
        let channel = Endpoint::from_shared(self.options.lease.coordinator.clone())
            .map_err(|error| Error::Rendezvous(error.to_string()))?
            .connect_lazy();
        let limit = self.options.ring_timeout;
        let worker = self.options.lease.worker.as_str();
        let meet = join::rendezvous(channel, worker, &assignment, advertised, step, limit);
        let plan = tokio::select! {
            () = control.cancel.cancelled() => return Err(Error::Cancelled),
            plan = meet => plan?,
        };
        let rank = plan.rank;
        let digests = training.digests();
        let attempt = Attempt {
            options: self.options.clone(),
            store: self.store.clone(),
            assignment,
            control,
            training,
            inputs,
            resume,
            scratch: scratch.clone(),
        };
        let handle = Handle::current();
        let finished = tokio::task::spawn_blocking(move || {
            let ring = join::connect(&plan, &listener, step, limit)?;
            attempt.compute(ring, handle, turn)
        })
        .await
        .unwrap_or_else(|panic| Err(Error::Broken(panic.to_string())));
        let done = match finished {
            Ok(finished) if rank == 0 => Some(self.done(finished, digests).await?),
            Ok(_) => None,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&scratch);
                return Err(error);
            }
        };
        std::fs::remove_dir_all(&scratch).map_err(|error| Error::local(&scratch, error))?;
        Ok(done)
    }

    /// Puts the model folder into the store.
    async fn done(
        &self,
        finished: Finished,
        inputs: Vec<capstan_plan::id::Digest>,
    ) -> Result<Done, Error> {
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

    /// An empty folder of this attempt and rank.
    fn scratch(&self, assignment: &Assignment) -> Result<PathBuf, Error> {
        let name = format!("attempt-{}-{}", assignment.lease.attempt, assignment.rank());
        let folder = self.options.cache.join("scratch").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        Ok(folder)
    }

    /// Waits for a turn at the processor: as many as the rank has threads.
    async fn turn(&self, control: &Control, threads: usize) -> Result<OwnedSemaphorePermit, Error> {
        let turns = self.options.turns.clone();
        tokio::select! {
            () = control.cancel.cancelled() => Err(Error::Cancelled),
            turn = turns.acquire_many_owned(threads as u32) => turn.map_err(|_| Error::Cancelled),
        }
    }
}

#[async_trait::async_trait]
impl Executor for Trainer {
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure> {
        let done = self.attempt(assignment, control).await;
        done.map_err(|error| Failure::new(error.kind(), &error))
    }
}

impl Attempt {
    /// Trains; blocks until the last step of the slowest rank.
    fn compute(
        mut self,
        mut ring: Ring,
        handle: Handle,
        _turn: OwnedSemaphorePermit,
    ) -> Result<Finished, Error> {
        let began = Instant::now();
        let device = self.options.device.open()?.autodiff();
        let seed = self.assignment.task.seed;
        let (mut network, preprocess) = self.training.network(&self.inputs, seed, &device)?;
        let mut pictures = self.pictures(&preprocess, &handle);
        let cancel = Arc::new(AtomicBool::new(false));
        let watching = self.watch_cancel(&handle, &cancel);
        let first = self.resume.as_ref().map_or(0, |state| state.step);
        let mut metrics = self.metrics(ring.rank(), first)?;
        let mut broken_metrics = None;
        let progress = self.control.progress.clone();
        progress.set(first);
        let mut on_step = |step: &TrainingStep| {
            progress.set(step.step + 1);
            if let Some(metrics) = &mut metrics {
                if let Err(error) = metrics.write(step) {
                    broken_metrics.get_or_insert(error);
                }
            }
        };
        let mut writer = (ring.rank() == 0).then(|| self.checkpoint_writer(&handle));
        let job = Job {
            config: &self.training.config,
            seed,
            samples: &self.inputs.samples,
            pictures: &mut pictures,
            preprocess: &preprocess,
            ring_limit: self.options.ring_timeout,
        };
        let watch = Watch {
            step: &mut on_step,
            checkpoints: writer
                .as_mut()
                .map(|writer| writer as &mut dyn capstan_train::Checkpoints),
            cancel: &cancel,
        };
        let trained = train(job, &mut network, &mut ring, self.resume.take(), watch);
        watching.abort();
        let trained = trained?;
        if let Some(metrics) = &mut metrics {
            let flushed = metrics.flush();
            let result = broken_metrics.map_or(flushed, Err);
            result.map_err(|error| Error::local(self.metrics_path(), error))?;
        }
        let cpu_seconds = self.cpu_of_all_ranks(&mut ring, &trained)?;
        let folder = self.scratch.join("model");
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
            wall_seconds: began.elapsed().as_secs_f64(),
            folder,
        })
    }

    fn pictures(&self, preprocess: &capstan_model::ImagePreprocess, handle: &Handle) -> Pictures {
        let (parts, rows) = (self.inputs.parts.clone(), self.inputs.rows.clone());
        let count = rows.len();
        let mut fetch = pictures::Fetch::new(self.store.clone(), handle.clone(), parts, rows);
        let source = Encoded::new(preprocess.clone(), move |wanted: &[usize]| {
            fetch.fetch(wanted)
        });
        Pictures::new(Box::new(source), count, self.options.picture_bytes)
    }

    /// Sets the flag that stops the loop once the lease is lost.
    fn watch_cancel(&self, handle: &Handle, flag: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
        let (cancel, flag) = (self.control.cancel.clone(), flag.clone());
        handle.spawn(async move {
            cancel.cancelled().await;
            flag.store(true, Ordering::Relaxed);
        })
    }

    fn metrics_path(&self) -> PathBuf {
        let task = &self.assignment.task;
        let folder: &Path = &self.options.metrics;
        folder
            .join(task.run.as_str())
            .join(format!("{}.jsonl", task.stage))
    }

    /// The metrics file; rank 0's alone.
    fn metrics(&self, rank: usize, step: u64) -> Result<Option<Metrics>, Error> {
        if rank != 0 {
            return Ok(None);
        }
        let path = self.metrics_path();
        let folder = path.parent().expect("it was joined").to_owned();
        std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        Ok(Some(
            Metrics::open(&path, step).map_err(|error| Error::local(&path, error))?,
        ))
    }

    fn checkpoint_writer(&self, handle: &Handle) -> checkpoint::Writer {
        let task = &self.assignment.task;
        checkpoint::Writer {
            store: self.store.clone(),
            handle: handle.clone(),
            run: task.run.clone(),
            stage: task.stage.clone(),
            attempt: AttemptId(self.assignment.lease.attempt.clone()),
            scratch: self.scratch.clone(),
        }
    }

    /// CPU seconds over all ranks, summed where it is committed.
    fn cpu_of_all_ranks(&self, ring: &mut Ring, trained: &Trained) -> Result<f64, Error> {
        let own = [(trained.cpu + ring.cpu_time()).as_secs_f32()];
        let deadline = Instant::now() + self.options.ring_timeout;
        let all = ring.all_gather(&own, deadline)?;
        Ok(all
            .iter()
            .flatten()
            .map(|seconds| f64::from(*seconds))
            .sum())
    }
}
