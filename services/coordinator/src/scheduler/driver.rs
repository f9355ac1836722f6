//! The driver of a run: expands its stages when their inputs are done, adopts what was made
//! before, publishes versions, ends the run.
//!
//! It remembers nothing that the store and the database do not hold: a driver that starts looks up
//! what is committed and continues there. A step of a million tasks is worked on through a window:
//! some thousand tasks are open at a time, the next ones are made when room is free, and what is
//! committed stays in the database, from which the end of the step reads it page by page.
//! What becomes of tasks meanwhile stands in the inbox of its run, so that it never looks at all of
//! them.

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
use super::supervise::panicked;
use crate::view::StageView;

/// Reads and writes of the store in flight at most, of one run.
const IN_FLIGHT: usize = 16;
/// How long a run may wait for a store that does not answer before it ends as failed.
const OUTAGE: Duration = Duration::from_secs(600);

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] capstan_dataset::Error),
    #[error(transparent)]
    Expand(#[from] expand::Error),
    #[error(transparent)]
    Coordinator(#[from] crate::Error),
    #[error("stage {stage}: {quarantined} shards failed for good, {allowed} may: {shards}")]
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

/// Between two looks for a worker that could take the tasks of a stage.
const WORKER_POLL: Duration = Duration::from_millis(200);

/// Failures of the driver's own since the store answered last.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    since: Duration,
    answers: u64,
}

impl Outage {
    /// One more failure. Gives how long the outage lasts.
    ///
    /// - `answers`: requests that the store has answered so far.
    fn failed(&mut self, now: Duration, answers: u64) -> Duration {
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
    /// Whether a stage waits for the first worker that could take its tasks.
    awaits_worker: bool,
    /// Whether a step has tasks that were not looked up for the sake of other stages.
    is_filling: bool,
}

impl Driver {
    /// Drives a run until it ends or the coordinator goes down. A driver that panics begins again,
    /// a few times: it remembers nothing that the store does not hold.
    pub(super) async fn drive_supervised(inner: Arc<Inner>, run: RunId) {
        for panics in 1.. {
            let driving = Self::drive(inner.clone(), run.clone());
            let Some(said) = panicked(driving).await else {
                return;
            };
            let error = Error::Coordinator(crate::Error::Panicked {
                part: "the driver of the run",
                said,
            });
            if panics >= inner.settings.max_attempts {
                return failed(&inner, &run, &error).await;
            }
            tracing::error!(%run, error = failure::chain(&error), panics, "beginning again");
            let pause = tokio::time::sleep(inner.policy.backoff_after(panics));
            if inner.shutdown.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Drives a run until it ends or the coordinator goes down.
    async fn drive(inner: Arc<Inner>, run: RunId) {
        let (wake, stop, json, stages) = {
            let core = inner.lock();
            let Some(active) = core.runs.get(&run) else {
                return;
            };
            // A driver before this one may not have asked for their commits.
            let stages = active.view.stages.iter().map(|stage| {
                let given_up = core.machine.given_up(&run, &stage.stage);
                let new = given_up.filter(|(_, given_up)| !given_up.is_earlier);
                let progress = Progress {
                    unlooked: new.map(|(shard, _)| shard.clone()).collect(),
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
            Err(error) => return failed(&inner, &run, &Error::Pipeline(error)).await,
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
            let lasts = outage.failed(inner.clock.now(), inner.store.answers());
            let failures = outage.failures;
            if !may_pass(error.kind(), lasts, failures <= inner.settings.max_attempts) {
                return failed(&inner, &run, &error).await;
            }
            tracing::warn!(error = failure::chain(&error), %run, failures, "trying again");
            let pause = inner.policy.backoff_after(failures);
            // What else happens is no reason to ask a store sooner that does not answer.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = inner.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes every stage as far as it goes. True where all of them are done.
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

    /// Takes one stage as far as it goes: step after step, until tasks are open or it is done.
    async fn advance(&mut self, stage: &Stage) -> Result<(), Error> {
        if self.list(stage).await? {
            return Ok(());
        }
        let allowed = self.pipeline.max_quarantined_of(stage);
        loop {
            self.take_inbox()?;
            if self.look_for_commits(stage).await? {
                continue;
            }
            self.publish_recipes(&stage.name).await?;
            self.check(stage, allowed, |given_up| !given_up.is_earlier)?;
            if self.window(stage).is_some() {
                if self.fill(stage).await? {
                    return Ok(());
                }
                // What was given up before ends the run again once the shards beside it, which may
                // be those that are tried again, have had their turn.
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

    /// What comes next.
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

    /// Fixes what a stage's models compute on: the setting, else the most common kind among the
    /// workers that could take its tasks. False where there is none yet.
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

/// The error of a database that cannot be read.
fn lost(error: crate::state::Error) -> Error {
    Error::Coordinator(crate::Error::Database(Arc::new(error)))
}

/// Whether a failure of the driver's own may go away: a store that does not answer is waited for,
/// as `lasts` says for how long already; anything else is tried a few times.
fn may_pass(kind: FailureKind, lasts: Duration, has_tries: bool) -> bool {
    match kind {
        FailureKind::Transient => lasts < OUTAGE,
        kind => kind.is_retryable() && has_tries,
    }
}

async fn failed(inner: &Inner, run: &RunId, error: &Error) {
    // A coordinator that goes down says nothing of its runs.
    if inner.core().is_ok() {
        let reason = failure::chain(error);
        tracing::error!(%run, error = reason, "run failed");
        inner.end(run, v1::RunState::Failed, &reason).await;
    }
}

impl Inner {
    /// [`Inner::end_run`] for whom nobody waits.
    async fn end(&self, run: &RunId, state: v1::RunState, reason: &str) {
        // A failure to write was logged, and watchers were told in any case.
        let _ = self.end_run(run, state, reason).await;
    }

    /// Ends a run; one that has ended stays as it is. The store is told, so that a database that
    /// is made anew knows it too.
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
            self.tell_store(run, state, reason).await;
        }
        Ok(())
    }

    /// Says in the store where a run stands. A store that does not take it stops nothing: after
    /// `state rebuild` the run would be looked at anew.
    pub(super) async fn tell_store(&self, run: &RunId, state: runs::RunState, reason: &str) {
        let standing = runs::Standing {
            state,
            reason: reason.to_owned(),
            at_ms: self.clock.unix_ms(),
        };
        if let Err(error) = runs::stands(&self.store, run, &standing).await {
            tracing::warn!(error = failure::chain(&error), %run, "the store was not told where the run stands");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_a_run_only_where_nothing_succeeded_in_between() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let lasts = |outage: &mut Outage, at, answers| outage.failed(minutes(at), answers);
        let passes = |lasts| may_pass(FailureKind::Transient, lasts, true);
        let mut outage = Outage::default();
        assert_eq!(lasts(&mut outage, 5, 100), Duration::ZERO);
        assert!(passes(lasts(&mut outage, 14, 100)));
        // The store answers, and fails again.
        assert!(passes(lasts(&mut outage, 16, 101)));
        assert!(passes(lasts(&mut outage, 25, 101)));
        let lasted = lasts(&mut outage, 26, 101);
        assert!(!passes(lasted), "ten minutes without an answer");
    }
}
