//! The driver of a run: expands stages whose inputs are done, adopts tasks that other runs have done,
//! publishes versions, and ends the run.
//!
//! All durable state is in the store and the database: a new driver looks up what is committed and
//! continues there. A step of a million tasks is processed through a window: some thousand tasks are
//! open at a time, and more are created when there is room. Commits stay in the database, and the end
//! of the step reads them page by page. Changes of tasks arrive in the inbox of the run, so the driver
//! never scans all tasks.

mod adopt;
mod close;
mod finish;
mod given_up;
mod inbox;
mod listing;
mod progress;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::runs;
use capstan_plan::FailureKind;
use capstan_plan::Pipeline;
use capstan_plan::commit::StageOutput;
use capstan_plan::expand::{self, Next, Request, next};
use capstan_plan::failure;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_plan::stage::Stage;
use capstan_proto::v1;

pub(super) use self::adopt::rebase;
use self::progress::Progress;
use super::Inner;
use super::supervise::panic_message;
use crate::view::StageView;

/// Maximum number of concurrent reads and writes of the store, per run.
const IN_FLIGHT: usize = 16;
/// How long a run waits for a store that does not answer before it fails.
const OUTAGE: Duration = Duration::from_secs(600);

/// Why a run cannot continue.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] capstan_dataset::Error),
    #[error(transparent)]
    Expand(#[from] expand::Error),
    #[error(transparent)]
    Coordinator(#[from] crate::Error),
    #[error("stage {stage}: {quarantined} shards failed permanently, {allowed} allowed: {shards}")]
    Quarantined {
        stage: StageName,
        quarantined: usize,
        allowed: u64,
        shards: String,
    },
    #[error(
        "stage {stage}: the task of shard {shard} has {bytes} bytes, {most} may be sent to a worker"
    )]
    TaskSize {
        stage: StageName,
        shard: ShardId,
        bytes: usize,
        most: usize,
    },
    #[error("stage {stage}: {shards}")]
    Fatal { stage: StageName, shards: String },
    #[error("the pipeline of the run cannot be read")]
    Pipeline(#[source] serde_json::Error),
}

impl Error {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Coordinator(error) => error.kind(),
            Self::Expand(_)
            | Self::Quarantined { .. }
            | Self::TaskSize { .. }
            | Self::Pipeline(_) => FailureKind::BadInput,
            Self::Fatal { .. } => FailureKind::Fatal,
        }
    }
}

/// Pause between two checks for a worker that could execute the tasks of a stage.
const WORKER_POLL: Duration = Duration::from_millis(200);

/// Consecutive failures of the driver without an answer of the store.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    since: Duration,
    answers: u64,
}

impl Outage {
    /// Records a failure. Returns how long the outage lasts.
    ///
    /// - `answers`: number of requests that the store has answered so far.
    fn record_failure(&mut self, now: Duration, answers: u64) -> Duration {
        if self.failures == 0 || answers > self.answers {
            *self = Self {
                failures: 0,
                since: now,
                answers,
            };
        }
        self.failures += 1;
        now.saturating_sub(self.since)
    }
}

pub(super) struct Driver {
    inner: Arc<Inner>,
    run: RunId,
    pipeline: Pipeline,
    stages: BTreeMap<StageName, Progress>,
    outputs: BTreeMap<StageName, StageOutput>,
    /// Whether a stage waits for the first worker that could execute its tasks.
    awaits_worker: bool,
    /// Whether a step has tasks that were not looked up yet, to let other stages advance.
    is_filling: bool,
}

impl Driver {
    /// Drives a run until it ends or the coordinator shuts down. A driver that panics is restarted,
    /// at most `max_attempts - 1` times.
    pub(super) async fn drive_supervised(inner: Arc<Inner>, run: RunId) {
        for panics in 1.. {
            let driving = Self::drive(inner.clone(), run.clone());
            let Some(message) = panic_message(driving).await else {
                return;
            };
            let error = Error::Coordinator(crate::Error::Panicked {
                part: "the driver of the run",
                message,
            });
            if panics >= inner.settings.max_attempts {
                return fail_run(&inner, &run, &error).await;
            }
            tracing::error!(%run, error = failure::chain(&error), panics, "restarting the driver");
            let pause = tokio::time::sleep(inner.policy.backoff_after(panics));
            if inner.shutdown.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Drives a run until it ends or the coordinator shuts down.
    async fn drive(inner: Arc<Inner>, run: RunId) {
        let (wake, stop, json, stages) = {
            let core = inner.lock();
            let Some(active) = core.runs.get(&run) else {
                return;
            };
            // An earlier driver may not have checked the store for commits of these shards.
            let stages = active.view.stages.iter().map(|stage| {
                let given_up = core.machine.given_up(&run, &stage.stage);
                let new = given_up.filter(|(_, given_up)| !given_up.is_earlier);
                let progress = Progress {
                    unchecked: new.map(|(shard, _)| shard.clone()).collect(),
                    ..Progress::default()
                };
                (stage.stage.clone(), progress)
            });
            (
                active.wake.clone(),
                active.stop.clone(),
                active.view.pipeline_json.clone(),
                stages.collect(),
            )
        };
        let pipeline = match serde_json::from_str(&json) {
            Ok(pipeline) => pipeline,
            Err(error) => return fail_run(&inner, &run, &Error::Pipeline(error)).await,
        };
        let mut driver = Self {
            inner: inner.clone(),
            run: run.clone(),
            pipeline,
            stages,
            outputs: BTreeMap::new(),
            awaits_worker: false,
            is_filling: false,
        };
        let mut outage = Outage::default();
        loop {
            let passed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = inner.shutdown.cancelled() => return,
                passed = driver.pass() => passed,
            };
            let error = match passed {
                Ok(true) => return inner.end(&run, v1::RunState::Done, "").await,
                Ok(false) if driver.is_filling => {
                    outage = Outage::default();
                    continue;
                }
                Ok(false) => {
                    outage = Outage::default();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = inner.shutdown.cancelled() => return,
                        () = wake.notified() => continue,
                        () = tokio::time::sleep(WORKER_POLL), if driver.awaits_worker => continue,
                    }
                }
                Err(error) => error,
            };
            let duration = outage.record_failure(inner.clock.now(), inner.store.answers());
            let failures = outage.failures;
            if !may_retry(
                error.kind(),
                duration,
                failures <= inner.settings.max_attempts,
            ) {
                return fail_run(&inner, &run, &error).await;
            }
            tracing::warn!(error = failure::chain(&error), %run, failures, "retrying");
            let pause = inner.policy.backoff_after(failures);
            // Other events do not shorten the back-off while the store is unavailable.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = inner.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Advances every stage as far as possible. Returns whether all of them are done.
    async fn pass(&mut self) -> Result<bool, Error> {
        self.awaits_worker = false;
        self.is_filling = false;
        for name in self.pipeline.order() {
            if self.outputs.contains_key(&name) {
                continue;
            }
            let Some(stage) = self.pipeline.stage(&name).cloned() else {
                continue;
            };
            if stage
                .kind
                .inputs()
                .iter()
                .all(|input| self.outputs.contains_key(input))
            {
                self.advance(&stage).await?;
            }
        }
        Ok(self.outputs.len() == self.pipeline.stages.len())
    }

    /// Advances one stage until it has open tasks or is done.
    async fn advance(&mut self, stage: &Stage) -> Result<(), Error> {
        if self.list(stage).await? {
            return Ok(());
        }
        let allowed = self.pipeline.max_quarantined_of(stage);
        loop {
            self.take_inbox()?;
            if self.find_commits(stage).await? {
                continue;
            }
            self.publish_recipes(&stage.name).await?;
            self.check(stage, allowed, |given_up| !given_up.is_earlier)?;
            if self.window(stage).is_some() {
                if self.fill(stage).await? {
                    return Ok(());
                }
                // Shards that were given up in an earlier submission fail the run only now: first the
                // other shards, among them those that are retried, are executed.
                self.check(stage, allowed, |_| true)?;
                self.close(stage).await?;
                continue;
            }
            match self.next(stage)? {
                Next::Tasks(_) if self.needs_device(stage) => {
                    if !self.fix_device(stage).await? {
                        self.awaits_worker = true;
                        return Ok(());
                    }
                }
                Next::Tasks(tasks) => self.begin(stage, tasks).await?,
                Next::Done(outcome) => {
                    let output = self.finish(stage, outcome).await?;
                    self.outputs.insert(stage.name.clone(), output);
                    self.stages.remove(&stage.name);
                    return Ok(());
                }
            }
        }
    }

    fn with_view<T>(
        &self,
        stage: &Stage,
        read: impl FnOnce(&StageView) -> T,
    ) -> Result<Option<T>, Error> {
        let mut core = self.inner.core()?;
        let view = core.runs.get_mut(&self.run).map(|active| &mut active.view);
        Ok(view
            .and_then(|view| view.stage_mut(&stage.name))
            .map(|view| read(view)))
    }

    /// Expands the stage: the tasks of the next step, or the outcome.
    fn next(&self, stage: &Stage) -> Result<Next, Error> {
        let progress = &self.stages[&stage.name];
        Ok(next(Request {
            stage,
            run: &self.run,
            seed: self.pipeline.seed,
            device: progress.device.as_ref(),
            inputs: &self.outputs,
            steps: &progress.steps,
        })?)
    }

    fn needs_device(&self, stage: &Stage) -> bool {
        let progress = self.stages.get(&stage.name);
        let is_fixed = progress.is_some_and(|progress| progress.device.is_some());
        stage.kind.settings().computes() && !is_fixed
    }

    /// Fixes the device kind of a stage: its setting, else the most common kind among the workers
    /// that could execute its tasks. Returns false if there is no such worker yet.
    async fn fix_device(&mut self, stage: &Stage) -> Result<bool, Error> {
        let Some(wanted) = self.inner.device_for(stage)? else {
            return Ok(false);
        };
        let fixed = runs::fix_device(&self.inner.store, &self.run, &stage.name, wanted).await?;
        let progress = self.stages.entry(stage.name.clone()).or_default();
        progress.device = Some(fixed);
        Ok(true)
    }
}

/// An error for a database that cannot be read.
fn database_error(error: crate::state::Error) -> Error {
    Error::Coordinator(crate::Error::Database(Arc::new(error)))
}

/// Whether to retry after a failure of the driver. The driver retries for [`OUTAGE`] while the store
/// does not answer, and a few times after other retryable failures.
///
/// - `duration`: how long the outage lasts.
fn may_retry(kind: FailureKind, duration: Duration, has_tries: bool) -> bool {
    match kind {
        FailureKind::Transient => duration < OUTAGE,
        kind => kind.is_retryable() && has_tries,
    }
}

async fn fail_run(inner: &Inner, run: &RunId, error: &Error) {
    // During shutdown, the next start decides about the run.
    if inner.core().is_ok() {
        let reason = failure::chain(error);
        tracing::error!(%run, error = reason, "run failed");
        inner.end(run, v1::RunState::Failed, &reason).await;
    }
}

impl Inner {
    /// [`Inner::end_run`] without a caller that needs the result.
    async fn end(&self, run: &RunId, state: v1::RunState, reason: &str) {
        // A failure to write is logged, and watchers are notified regardless.
        let _ = self.end_run(run, state, reason).await;
    }

    /// Ends a run; one that has ended stays unchanged. The end is recorded in the store, so that
    /// `state rebuild` restores it.
    pub(super) async fn end_run(
        &self,
        run: &RunId,
        state: v1::RunState,
        reason: &str,
    ) -> Result<(), crate::Error> {
        let now = self.clock.unix_ms();
        let ended = self
            .change(|core| core.end_run(run, state, reason, now))
            .await?;
        let state = match state {
            v1::RunState::Done => runs::RunState::Done,
            v1::RunState::Failed => runs::RunState::Failed,
            v1::RunState::Cancelled => runs::RunState::Cancelled,
            v1::RunState::Running | v1::RunState::Unspecified => return Ok(()),
        };
        if ended {
            self.record_in_store(run, state, reason).await;
        }
        Ok(())
    }

    /// Records the state of a run in the store. A failure is only logged: after `state rebuild` the
    /// run would start again.
    pub(super) async fn record_in_store(&self, run: &RunId, state: runs::RunState, reason: &str) {
        let standing = runs::Standing {
            state,
            reason: reason.to_owned(),
            at_ms: self.clock.unix_ms(),
        };
        if let Err(error) = runs::stands(&self.store, run, &standing).await {
            tracing::warn!(error = failure::chain(&error), %run, "the state of the run was not recorded in the store");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_a_run_only_without_an_answer_in_between() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let duration =
            |outage: &mut Outage, at, answers| outage.record_failure(minutes(at), answers);
        let retries = |duration| may_retry(FailureKind::Transient, duration, true);
        let mut outage = Outage::default();
        assert_eq!(duration(&mut outage, 5, 100), Duration::ZERO);
        assert!(retries(duration(&mut outage, 14, 100)));
        // The store answers, and fails again.
        assert!(retries(duration(&mut outage, 16, 101)));
        assert!(retries(duration(&mut outage, 25, 101)));
        let last = duration(&mut outage, 26, 101);
        assert!(!retries(last), "ten minutes without an answer");
    }
}
