//! The driver of a run: expands its stages when their inputs are done, adopts what was made
//! before, publishes versions, ends the run.
//!
//! It remembers nothing that the store does not hold: one that starts anew lists the commits of
//! each stage and goes on from there. What becomes of tasks meanwhile it is told through the inbox
//! of its run, so that it never looks at all of them.

mod finish;
mod inbox;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::{commits, runs, versions};
use capstan_plan::FailureKind;
use capstan_plan::Pipeline;
use capstan_plan::commit::{Commit, StageOutput};
use capstan_plan::expand::{self, Expansion, Request, expand};
use capstan_plan::failure;
use capstan_plan::id::{DeviceKind, RunId, ShardId, StageName};
use capstan_plan::stage::Stage;
use capstan_proto::v1;

use super::Inner;
use super::plan::dataset_of;
use super::supervise::panicked;
use crate::machine::Key;
pub(super) use step::rebased;

/// Reads and writes of the store in flight at most, of one run.
const IN_FLIGHT: usize = 16;
/// How long a run may wait for a store that does not answer before it ends as failed.
const OUTAGE: Duration = Duration::from_secs(600);

/// Shards that a reason names.
const NAMED: usize = 3;

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
            Self::Expand(_) | Self::Quarantined { .. } | Self::Pipeline(_) => FailureKind::BadInput,
            Self::Fatal { .. } => FailureKind::Fatal,
        }
    }
}

/// What is known of a stage that is not done.
#[derive(Default)]
struct Progress {
    /// Whether the store was asked for what is committed already.
    is_listed: bool,
    commits: BTreeMap<ShardId, Commit>,
    /// Committed shards whose recipe does not point at them yet.
    unpublished: Vec<ShardId>,
    /// Committed without work in this submission.
    already: u64,
    missing: BTreeMap<ShardId, GivenUp>,
    /// Handed to the machine and not final yet.
    open: BTreeSet<ShardId>,
    /// What the stage's models compute on, once it is fixed.
    device: Option<DeviceKind>,
}

/// A shard that was given up.
struct GivenUp {
    said: String,
    /// Whether that ends the run.
    is_fatal: bool,
    since: Since,
}

/// When a shard was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Before its version was published: it was judged then.
    Published,
    /// Before this driver began.
    Before,
    /// Just now: the store was not asked yet whether its commit stands all the same.
    Now,
    /// While this driver runs, and the store has no commit.
    Looked,
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
        let (wake, stop, json, given_up) = {
            let core = inner.lock();
            let Some(active) = core.runs.get(&run) else {
                return;
            };
            let stages = active.view.stages.iter();
            let given_up: BTreeMap<StageName, BTreeMap<ShardId, String>> = stages
                .map(|stage| (stage.stage.clone(), stage.quarantined.clone()))
                .collect();
            (
                active.wake.clone(),
                active.stop.clone(),
                active.view.pipeline_json.clone(),
                given_up,
            )
        };
        let pipeline = match serde_json::from_str(&json) {
            Ok(pipeline) => pipeline,
            Err(error) => return failed(&inner, &run, &Error::Pipeline(error)).await,
        };
        let given_up = given_up.into_iter().map(|(stage, missing)| {
            let before = |(shard, said)| (shard, GivenUp::earlier(said, Since::Before));
            let progress = Progress {
                missing: missing.into_iter().map(before).collect(),
                ..Progress::default()
            };
            (stage, progress)
        });
        let mut driver = Self {
            inner: inner.clone(),
            run: run.clone(),
            pipeline,
            stages: given_up.collect(),
            outputs: BTreeMap::new(),
            awaits_worker: false,
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
        self.list(stage).await?;
        loop {
            self.take_inbox()?;
            if self.look_for_commits(stage).await? {
                continue;
            }
            self.publish_recipes(&stage.name).await?;
            let allowed = self.pipeline.max_quarantined_of(stage);
            let progress = self.stages.entry(stage.name.clone()).or_default();
            let is_new = |since| matches!(since, Since::Now | Since::Looked);
            progress.check(stage, allowed, |given_up| is_new(given_up.since))?;
            if !progress.open.is_empty() {
                return Ok(());
            }
            let (expansion, left_out) = self.expand(stage)?;
            let is_done = matches!(expansion, Expansion::Done(_));
            if !is_done && stage.kind.settings().computes() && self.device(stage).is_none() {
                if !self.fix_device(stage).await? {
                    self.awaits_worker = true;
                    return Ok(());
                }
                continue;
            }
            let progress = self.stages.entry(stage.name.clone()).or_default();
            progress.leave_out(left_out);
            // What was given up before ends the run again once the shards beside it, which may be
            // those that are tried again, have had their turn.
            let is_beside = match &expansion {
                Expansion::Tasks(tasks) => tasks
                    .iter()
                    .any(|task| progress.missing.contains_key(&task.shard)),
                Expansion::Done(_) => false,
            };
            if !is_beside {
                progress.check(stage, allowed, |given_up| {
                    given_up.since != Since::Published
                })?;
            }
            match expansion {
                Expansion::Tasks(tasks) => self.begin(stage, tasks).await?,
                Expansion::Done(done) => {
                    let output = self.finish(stage, done).await?;
                    self.outputs.insert(stage.name.clone(), output);
                    self.stages.remove(&stage.name);
                    return Ok(());
                }
            }
        }
    }

    /// Asks the store, once, for what of a stage is committed, and for what its version says is
    /// missing where it has one: that a published version does not have is not made any more.
    async fn list(&mut self, stage: &Stage) -> Result<(), Error> {
        let known = self.stages.get(&stage.name);
        if known.is_some_and(|progress| progress.is_listed) {
            return Ok(());
        }
        let store = &self.inner.store;
        let found = commits::of_stage(store, &self.run, &stage.name).await?;
        let device = match stage.kind.settings().computes() {
            true => runs::device(store, &self.run, &stage.name).await?,
            false => None,
        };
        let missing = match dataset_of(&stage.kind, &self.outputs) {
            Some(dataset) if !found.is_empty() => {
                match versions::published(store, dataset, &self.run, &stage.name).await? {
                    Some(version) => Some(versions::tasks(store, &version).await?.missing),
                    None => None,
                }
            }
            _ => None,
        };
        let adopted = {
            let core = self.inner.core()?;
            let view = core.runs.get(&self.run).map(|active| &active.view);
            let stages = view.iter().flat_map(|view| &view.stages);
            let mut begun =
                stages.filter(|view| view.stage == stage.name && view.started_unix_ms > 0);
            begun.next().map(|view| view.adopted)
        };
        let progress = self.stages.entry(stage.name.clone()).or_default();
        // What was committed before the coordinator started anew was work of this submission.
        progress.already = adopted.unwrap_or(found.len() as u64);
        for commit in found {
            let shard = commit.shard.clone();
            progress.missing.remove(&shard);
            progress.commits.entry(shard).or_insert(commit);
        }
        if let Some(missing) = missing {
            let said = "its version is published without it";
            let given_up = |shard| (shard, GivenUp::earlier(said.to_owned(), Since::Published));
            progress.missing = missing.into_iter().map(given_up).collect();
            for shard in progress.missing.keys() {
                progress.commits.remove(shard);
            }
        }
        progress.device = device;
        progress.is_listed = true;
        Ok(())
    }

    /// What comes next, and the shards that it comes without.
    fn expand(&self, stage: &Stage) -> Result<(Expansion, Vec<ShardId>), Error> {
        let progress = &self.stages[&stage.name];
        let commits: Vec<Commit> = progress.commits.values().cloned().collect();
        let missing: BTreeSet<ShardId> = progress.missing.keys().cloned().collect();
        let request = Request {
            stage,
            run: &self.run,
            seed: self.pipeline.seed,
            device: progress.device.as_ref(),
            inputs: &self.outputs,
            commits: &commits,
            missing: &missing,
        };
        Ok((expand(request)?, expand::left_out(request)?))
    }

    fn device(&self, stage: &Stage) -> Option<&DeviceKind> {
        self.stages.get(&stage.name)?.device.as_ref()
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

    fn key(&self, stage: &Stage, shard: &ShardId) -> Key {
        Key {
            run: self.run.clone(),
            stage: stage.name.clone(),
            shard: shard.clone(),
        }
    }
}

impl GivenUp {
    /// Before this driver began. What ended the run then is tried again, or was within what may be
    /// missing.
    fn earlier(said: String, since: Since) -> Self {
        Self {
            said,
            is_fatal: false,
            since,
        }
    }
}

impl Progress {
    /// Counts shards that later steps were built without, though this driver saw none of them
    /// given up.
    fn leave_out(&mut self, shards: Vec<ShardId>) {
        for shard in shards {
            let said = "later steps were built without it".to_owned();
            let given_up = GivenUp::earlier(said, Since::Before);
            self.missing.entry(shard).or_insert(given_up);
        }
    }

    /// Refuses to go on where more shards than `allowed` were given up, of those that `counts`
    /// takes.
    fn check(
        &self,
        stage: &Stage,
        allowed: u64,
        counts: impl Fn(&GivenUp) -> bool,
    ) -> Result<(), Error> {
        let missing = self.missing.iter().filter(|(_, given_up)| counts(given_up));
        let missing: Vec<_> = missing.collect();
        let is_fatal = missing.iter().any(|(_, given_up)| given_up.is_fatal);
        if !is_fatal && missing.len() as u64 <= allowed {
            return Ok(());
        }
        let named = missing.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|(shard, given_up)| format!("{shard}: {}", given_up.said))
            .collect();
        let more = match missing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let (stage, shards) = (stage.name.clone(), format!("{}{more}", named.join("; ")));
        Err(if is_fatal {
            Error::Fatal { stage, shards }
        } else {
            Error::Quarantined {
                stage,
                quarantined: missing.len(),
                allowed,
                shards,
            }
        })
    }
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
