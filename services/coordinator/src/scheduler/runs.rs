//! Submitting, listing, showing and cancelling runs.

use capstan_dataset::runs::{self, RunRecord};
use capstan_dataset::store::Created;
use capstan_plan::Pipeline;
use capstan_plan::failure;
use capstan_plan::id::RunId;
use capstan_plan::stage::Stage;
use capstan_proto::v1;

use super::Handle;
use super::core::Core;
use super::driver::Driver;
use crate::error::Error;
use crate::view::RunView;

/// Maximum number of runs in a list.
const LISTED: u32 = 1_000;

/// A run that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub run: RunId,
    /// Whether the run existed.
    pub resumed: bool,
    /// What may keep the run waiting.
    pub warnings: Vec<String>,
}

impl Handle {
    /// Creates a run, or resumes the run with this id.
    ///
    /// A run that has ended starts again. Committed tasks are not executed again, so a run whose tasks
    /// are all committed leases none.
    ///
    /// - `run`: the id; if `None`, it is derived from the pipeline's name and a digest of pipeline and
    ///   seed.
    ///
    /// # Errors
    /// [`Error::RunId`], [`Error::OtherPipeline`]; [`Error::Store`], [`Error::Database`].
    pub async fn submit(
        &self,
        pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<Submitted, Error> {
        self.inner.check_accepts_work()?;
        let submission = Submission::new(pipeline, seed, run)?;
        let resumed = self.create_record(&submission).await?;
        let run = submission.run.clone();
        let view = submission.view(self.inner.clock.unix_ms());
        let began = self.start_or_resume(view, resumed).await?;
        tracing::info!(%run, resumed, "run submitted");
        let resumed = resumed || !began;
        let warnings = self.warnings(&submission.pipeline)?;
        Ok(Submitted {
            run,
            resumed,
            warnings,
        })
    }

    /// Lists what may keep a run of this pipeline waiting, one line each: gangs that are larger than
    /// the present fleet. This is not an error, because more trainers may join later.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`].
    pub(super) fn warnings(&self, pipeline: &Pipeline) -> Result<Vec<String>, Error> {
        let core = self.inner.core()?;
        let now = self.inner.clock.now();
        let short = |stage: &Stage| {
            let settings = stage.kind.settings();
            let (needed, role) = (settings.world_size(), settings.role());
            let live = core.machine.live_workers(role, stage.device.as_ref(), now);
            (needed > 1 && live < needed).then(|| {
                format!(
                    "stage `{}`: `world_size = {needed}`: only {live} trainers are alive; it waits for more",
                    stage.name
                )
            })
        };
        Ok(pipeline.stages.iter().filter_map(short).collect())
    }

    /// Starts a run that is not running. Its driver finds the committed tasks. Returns false if the
    /// run is already running.
    ///
    /// - `resumed`: whether the run had started before, so that the store may record its end.
    pub(super) async fn start_or_resume(
        &self,
        view: RunView,
        resumed: bool,
    ) -> Result<bool, Error> {
        // The work runs in a task of its own: a caller that is dropped halfway must not leave a run
        // without a driver.
        let handle = self.clone();
        let tasks = &self.inner.tasks;
        let started = tasks.spawn(async move { handle.begin_and_drive(view, resumed).await });
        started.await.unwrap_or(Err(Error::Closing))
    }

    async fn begin_and_drive(&self, view: RunView, resumed: bool) -> Result<bool, Error> {
        let run = view.run.clone();
        let begin = |core: &mut Core| {
            let begins = !core.running().contains(&view.run);
            if begins {
                core.begin_run(view);
            }
            begins
        };
        let begins = self.inner.change(begin).await?;
        if begins {
            if resumed {
                self.record_running(&run).await;
            }
            self.spawn_driver(run);
        }
        Ok(begins)
    }

    /// Records in the store that a run is running, if the store has a record of its end.
    async fn record_running(&self, run: &RunId) {
        match runs::standing(&self.inner.store, run).await {
            Ok(Some(recorded)) if recorded.state != runs::RunState::Running => {
                let state = runs::RunState::Running;
                self.inner.record_in_store(run, state, "").await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = failure::chain(&error), %run, "cannot read the state of the run from the store")
            }
        }
    }

    /// Creates `run.json`. Returns true if an equal one exists.
    async fn create_record(&self, submission: &Submission) -> Result<bool, Error> {
        let record = RunRecord {
            run: submission.run.clone(),
            pipeline: submission.value.clone(),
            seed: submission.pipeline.seed,
            created_at_ms: self.inner.clock.unix_ms(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if runs::begin(&self.inner.store, &record).await? == Created::Created {
            return Ok(false);
        }
        match runs::read(&self.inner.store, &submission.run).await? {
            Some(recorded) => submission.check_equal(&recorded).map(|()| true),
            None => Err(Error::OtherPipeline {
                run: submission.run.clone(),
            }),
        }
    }

    pub(super) fn spawn_driver(&self, run: RunId) {
        self.inner
            .tasks
            .spawn(Driver::drive_supervised(self.inner.clone(), run));
    }

    /// Runs without their stages, newest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn runs(&self, limit: u32) -> Result<Vec<v1::RunStatus>, Error> {
        drop(self.inner.core()?);
        let views = self.inner.database.runs(limit.min(LISTED)).await?;
        Ok(views.iter().map(|view| view.to_message(false)).collect())
    }

    /// A run with its stages.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Database`].
    pub async fn run(&self, run: &RunId) -> Result<RunView, Error> {
        if let Some(view) = self.inner.core()?.run_view(run) {
            return Ok(view);
        }
        let view = self.inner.database.run(run).await?;
        view.ok_or_else(|| Error::UnknownRun { run: run.clone() })
    }

    /// Cancels a run. One that has ended stays unchanged. Workers learn of it with their next
    /// heartbeat. Submitting the run again resumes it.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Database`].
    pub async fn cancel(&self, run: &RunId) -> Result<v1::RunState, Error> {
        // The end is recorded in the store even if the client does not wait.
        let (inner, ended) = (self.inner.clone(), run.clone());
        let ending = self.inner.tasks.spawn(async move {
            let state = v1::RunState::Cancelled;
            inner.end_run(&ended, state, "cancelled").await
        });
        ending.await.unwrap_or(Err(Error::Closing))?;
        Ok(self.run(run).await?.state)
    }
}

/// A validated request to submit a run.
pub(super) struct Submission {
    pub(super) run: RunId,
    pub(super) pipeline: Pipeline,
    value: serde_json::Value,
}

impl Submission {
    /// - `run`: the id; if `None`, it is derived from the pipeline's name and a digest of pipeline
    ///   and seed.
    pub(super) fn new(
        mut pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<Self, Error> {
        pipeline.seed = seed.unwrap_or(pipeline.seed);
        let value = serde_json::to_value(&pipeline).map_err(unusable)?;
        let run = run.unwrap_or_else(|| pipeline.run_id());
        if !is_run_id(&run) {
            return Err(Error::RunId { run });
        }
        Ok(Self {
            run,
            pipeline,
            value,
        })
    }

    /// Checks that the recorded run has the same pipeline and seed.
    pub(super) fn check_equal(&self, recorded: &RunRecord) -> Result<(), Error> {
        // Compare the parsed JSON, because numbers may lose their last bit in serialization.
        let ours: serde_json::Value =
            serde_json::from_str(&self.value.to_string()).map_err(unusable)?;
        if recorded.pipeline == ours && recorded.seed == self.pipeline.seed {
            return Ok(());
        }
        Err(Error::OtherPipeline {
            run: self.run.clone(),
        })
    }

    fn view(&self, now_unix_ms: i64) -> RunView {
        RunView::new(
            self.run.clone(),
            &self.pipeline,
            self.value.to_string().into(),
            self.pipeline.seed,
            now_unix_ms,
        )
    }
}

fn unusable(error: serde_json::Error) -> Error {
    Error::Pipeline {
        reason: error.to_string(),
    }
}

fn is_run_id(run: &RunId) -> bool {
    let text = run.as_str();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 100 && text.bytes().all(plain)
}
