//! Runs: submitted, listed, looked at, cancelled.

use capstan_dataset::runs::{self, RunRecord};
use capstan_dataset::store::Created;
use capstan_plan::Pipeline;
use capstan_plan::id::{Digest, RunId};
use capstan_proto::v1;

use super::Handle;
use super::core::Active;
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
        mut pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<Submitted, Error> {
        pipeline.seed = seed.unwrap_or(pipeline.seed);
        let value = serde_json::to_value(&pipeline).map_err(|error| Error::Pipeline {
            reason: error.to_string(),
        })?;
        let run = run.unwrap_or_else(|| derived_id(&pipeline, &value));
        if !is_run_id(&run) {
            return Err(Error::RunId { run });
        }
        let resumed = self.begin(&run, &pipeline, value.clone()).await?;
        let mut core = self.inner.core.lock().await;
        if core.running().contains(&run) {
            return Ok(Submitted { run, resumed: true });
        }
        // What an earlier time of this run left unwritten must not follow its deletion.
        self.inner.flush(&mut core).await?;
        let now = self.inner.clock.unix_ms();
        let view = RunView::new(
            run.clone(),
            &pipeline,
            value.to_string(),
            pipeline.seed,
            now,
        );
        self.inner.database.submit(&view).await?;
        core.runs.insert(run.clone(), Active::new(view));
        drop(core);
        tracing::info!(%run, resumed, "run submitted");
        self.spawn_driver(run.clone());
        Ok(Submitted { run, resumed })
    }

    /// Creates `run.json`; true where an equal one stands there.
    async fn begin(
        &self,
        run: &RunId,
        pipeline: &Pipeline,
        value: serde_json::Value,
    ) -> Result<bool, Error> {
        let record = RunRecord {
            run: run.clone(),
            pipeline: value,
            seed: pipeline.seed,
            created_at_ms: self.inner.clock.unix_ms(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if runs::begin(&self.inner.store, &record).await? == Created::Created {
            return Ok(false);
        }
        let standing = runs::read(&self.inner.store, run).await?;
        // As it reads back, since numbers may lose their last bit on the way.
        let ours: serde_json::Value =
            serde_json::from_str(&record.pipeline.to_string()).map_err(|error| {
                Error::Pipeline {
                    reason: error.to_string(),
                }
            })?;
        match standing {
            Some(standing) if standing.pipeline == ours && standing.seed == record.seed => Ok(true),
            _ => Err(Error::OtherPipeline { run: run.clone() }),
        }
    }

    pub(super) fn spawn_driver(&self, run: RunId) {
        self.inner
            .tasks
            .spawn(Driver::drive(self.inner.clone(), run));
    }

    /// Runs without their stages, newest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn runs(&self, limit: u32) -> Result<Vec<v1::RunStatus>, Error> {
        let views = self.inner.database.runs(limit.min(LISTED)).await?;
        Ok(views.iter().map(|view| view.to_message(false)).collect())
    }

    /// A run with its stages.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Database`].
    pub async fn run(&self, run: &RunId) -> Result<RunView, Error> {
        if let Some(active) = self.inner.core.lock().await.runs.get(run) {
            return Ok(active.view.clone());
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
        let mut core = self.inner.core.lock().await;
        if core.runs.contains_key(run) {
            let now = self.inner.clock.unix_ms();
            core.end_run(run, v1::RunState::Cancelled, "cancelled", now);
            self.inner.flush(&mut core).await?;
        }
        drop(core);
        Ok(self.run(run).await?.state)
    }
}

fn derived_id(pipeline: &Pipeline, value: &serde_json::Value) -> RunId {
    let digest = Digest::of(value.to_string().as_bytes()).short();
    let name: String = pipeline.name.chars().take(80).collect();
    RunId(format!("{}-{}", name.replace('_', "-"), &digest[..8]))
}

fn is_run_id(run: &RunId) -> bool {
    let text = run.as_str();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 100 && text.bytes().all(plain)
}
