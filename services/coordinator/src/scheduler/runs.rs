//! Runs: submitted, listed, looked at, cancelled.

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

/// Runs that one list shows at most.
const LISTED: u32 = 1_000;

/// A run that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub run: RunId,
    /// Whether it was there already.
    pub resumed: bool,
    /// What may keep it waiting.
    pub warnings: Vec<String>,
}

impl Handle {
    /// Creates a run, or goes on with the one of this id.
    ///
    /// A run that has ended is looked at anew: whatever is committed is not done again, so one
    /// with nothing left to do leases no task.
    ///
    /// - `run`: its id; `None` makes one of the pipeline's name and a digest of pipeline and seed.
    ///
    /// # Errors
    /// [`Error::RunId`], [`Error::OtherPipeline`]; [`Error::Store`], [`Error::Database`].
    pub async fn submit(
        &self,
        pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<Submitted, Error> {
        self.inner.takes_work()?;
        let asked = Asked::new(pipeline, seed, run)?;
        let resumed = self.begin(&asked).await?;
        let run = asked.run.clone();
        let view = asked.view(self.inner.clock.unix_ms());
        let began = self.go_on(view, resumed).await?;
        tracing::info!(%run, resumed, "run submitted");
        let resumed = resumed || !began;
        let warnings = self.warnings(&asked.pipeline)?;
        Ok(Submitted {
            run,
            resumed,
            warnings,
        })
    }

    /// What may keep a run of this pipeline waiting, a line each: gangs that are larger than the
    /// present fleet. More ranks may join later, so this is no error.
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
                    "stage `{}`: `world_size = {needed}`: {live} trainers are there; it waits for more",
                    stage.name
                )
            })
        };
        Ok(pipeline.stages.iter().filter_map(short).collect())
    }

    /// Puts a run that does not go on at its beginning; what is committed is found there. False
    /// where it goes on already.
    ///
    /// - `resumed`: whether it had begun before, so that the store may know how it ended.
    pub(super) async fn go_on(&self, view: RunView, resumed: bool) -> Result<bool, Error> {
        // A task of its own: a caller that goes away in the middle must not leave a run behind that
        // nobody drives.
        let handle = self.clone();
        let tasks = &self.inner.tasks;
        let going = tasks.spawn(async move { handle.begin_and_drive(view, resumed).await });
        going.await.unwrap_or(Err(Error::Closing))
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
                self.wake(&run).await;
            }
            self.spawn_driver(run);
        }
        Ok(begins)
    }

    /// Says in the store that a run goes on, where it is said to have ended.
    async fn wake(&self, run: &RunId) {
        match runs::standing(&self.inner.store, run).await {
            Ok(Some(standing)) if standing.state != runs::RunState::Running => {
                let state = runs::RunState::Running;
                self.inner.tell_store(run, state, "").await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = failure::chain(&error), %run, "the store does not say how the run ended")
            }
        }
    }

    /// Creates `run.json`; true where an equal one stands there.
    async fn begin(&self, asked: &Asked) -> Result<bool, Error> {
        let record = RunRecord {
            run: asked.run.clone(),
            pipeline: asked.value.clone(),
            seed: asked.pipeline.seed,
            created_at_ms: self.inner.clock.unix_ms(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if runs::begin(&self.inner.store, &record).await? == Created::Created {
            return Ok(false);
        }
        match runs::read(&self.inner.store, &asked.run).await? {
            Some(standing) => asked.must_equal(&standing).map(|()| true),
            None => Err(Error::OtherPipeline {
                run: asked.run.clone(),
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
        if let Some(view) = self.inner.core()?.shown(run) {
            return Ok(view);
        }
        let view = self.inner.database.run(run).await?;
        view.ok_or_else(|| Error::UnknownRun { run: run.clone() })
    }

    /// Ends a run; one that has ended stays as it is. Its leases are told so by their next
    /// heartbeat. Submitting it again goes on with it.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Database`].
    pub async fn cancel(&self, run: &RunId) -> Result<v1::RunState, Error> {
        // The store is told as well, whether the client waits for that or not.
        let (inner, ended) = (self.inner.clone(), run.clone());
        let ending = self.inner.tasks.spawn(async move {
            let state = v1::RunState::Cancelled;
            inner.end_run(&ended, state, "cancelled").await
        });
        ending.await.unwrap_or(Err(Error::Closing))?;
        Ok(self.run(run).await?.state)
    }
}

/// What was asked for, checked.
pub(super) struct Asked {
    pub(super) run: RunId,
    pub(super) pipeline: Pipeline,
    value: serde_json::Value,
}

impl Asked {
    /// - `run`: its id; `None` makes one of the pipeline's name and a digest of pipeline and seed.
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

    /// The run that stands under this id must be of this pipeline and seed.
    pub(super) fn must_equal(&self, standing: &RunRecord) -> Result<(), Error> {
        // As it reads back, since numbers may lose their last bit on the way.
        let ours: serde_json::Value =
            serde_json::from_str(&self.value.to_string()).map_err(unusable)?;
        if standing.pipeline == ours && standing.seed == self.pipeline.seed {
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
