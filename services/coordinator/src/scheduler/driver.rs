//! The driver of a run: expands its stages when their inputs are done, adopts what was made
//! before, publishes versions, ends the run.
//!
//! It remembers nothing that the store does not hold: one that starts anew lists the commits of
//! each stage and goes on from there.

mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::{commits, recipes, versions};
use capstan_plan::FailureKind;
use capstan_plan::Pipeline;
use capstan_plan::commit::{Commit, StageOutput};
use capstan_plan::expand::{self, Done, Expansion, Given, Request, expand};
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_plan::stage::Stage;
use capstan_proto::v1;
use futures::{StreamExt, TryStreamExt};

use super::Inner;
pub(super) use step::rebased;
use crate::machine::{Key, State};

/// Reads and writes of the store in flight at most, of one run.
const IN_FLIGHT: usize = 16;

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
    #[error("the pipeline of the run cannot be read: {0}")]
    Pipeline(serde_json::Error),
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
    /// Committed without work in this submission.
    already: u64,
    /// Given up, and whether it ends the run, and what it said.
    missing: BTreeMap<ShardId, String>,
    is_fatal: bool,
    /// Handed to the machine and not final yet.
    open: BTreeSet<ShardId>,
}

pub(super) struct Driver {
    inner: Arc<Inner>,
    run: RunId,
    pipeline: Pipeline,
    stages: BTreeMap<StageName, Progress>,
    outputs: BTreeMap<StageName, StageOutput>,
}

impl Driver {
    /// Drives a run until it ends or the coordinator goes down.
    pub(super) async fn drive(inner: Arc<Inner>, run: RunId) {
        let (wake, stop, json) = {
            let core = inner.core.lock().await;
            let Some(active) = core.runs.get(&run) else {
                return;
            };
            (
                active.wake.clone(),
                active.stop.clone(),
                active.view.pipeline_json.clone(),
            )
        };
        let mut driver = match serde_json::from_str(&json) {
            Ok(pipeline) => Self {
                inner: inner.clone(),
                run: run.clone(),
                pipeline,
                stages: BTreeMap::new(),
                outputs: BTreeMap::new(),
            },
            Err(error) => return failed(&inner, &run, &Error::Pipeline(error)).await,
        };
        let mut failures = 0;
        loop {
            let passed = tokio::select! {
                () = stop.cancelled() => return,
                () = inner.shutdown.cancelled() => return,
                passed = driver.pass() => passed,
            };
            let wait = match passed {
                Ok(true) => return end(&inner, &run, v1::RunState::Done, "").await,
                Ok(false) => {
                    failures = 0;
                    Duration::MAX
                }
                Err(error)
                    if error.kind().is_retryable() && failures < inner.settings.max_attempts =>
                {
                    failures += 1;
                    tracing::warn!(%error, %run, failures, "trying again");
                    Duration::from_millis(inner.settings.backoff_ms) * failures
                }
                Err(error) => return failed(&inner, &run, &error).await,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = inner.shutdown.cancelled() => return,
                () = wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes every stage as far as it goes. True where all of them are done.
    async fn pass(&mut self) -> Result<bool, Error> {
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
        let mut progress = self.stages.remove(&stage.name).unwrap_or_default();
        let advanced = self.advance_with(stage, &mut progress).await;
        self.stages.insert(stage.name.clone(), progress);
        if let Some(output) = advanced? {
            self.outputs.insert(stage.name.clone(), output);
            self.stages.remove(&stage.name);
        }
        Ok(())
    }

    async fn advance_with(
        &self,
        stage: &Stage,
        progress: &mut Progress,
    ) -> Result<Option<StageOutput>, Error> {
        if !progress.is_listed {
            let found = commits::of_stage(&self.inner.store, &self.run, &stage.name).await?;
            progress.already = found.len() as u64;
            progress.commits = found.into_iter().map(|c| (c.shard.clone(), c)).collect();
            progress.is_listed = true;
        }
        loop {
            self.settle(stage, progress).await?;
            self.check_quarantined(stage, progress)?;
            if !progress.open.is_empty() {
                return Ok(None);
            }
            match self.expand(stage, progress)? {
                Expansion::Tasks(tasks) => self.begin(stage, progress, tasks).await?,
                Expansion::Done(done) => {
                    return self.finish(stage, progress, done).await.map(Some);
                }
            }
        }
    }

    fn expand(&self, stage: &Stage, progress: &Progress) -> Result<Expansion, Error> {
        let commits: Vec<Commit> = progress.commits.values().cloned().collect();
        let missing: BTreeSet<ShardId> = progress.missing.keys().cloned().collect();
        Ok(expand(Request {
            stage,
            run: &self.run,
            seed: self.pipeline.seed,
            inputs: &self.outputs,
            commits: &commits,
            missing: &missing,
        })?)
    }

    /// Takes down which open tasks have ended, and reads their commits.
    async fn settle(&self, stage: &Stage, progress: &mut Progress) -> Result<(), Error> {
        let mut committed = Vec::new();
        {
            let core = self.inner.core.lock().await;
            for shard in &progress.open {
                let key = self.key(stage, shard);
                // A task that is not known is one of a run that is ending.
                let Some(task) = core.machine.task(&key) else {
                    continue;
                };
                match task.state {
                    State::Committed => committed.push(shard.clone()),
                    State::Quarantined => {
                        let view = core.runs.get(&self.run).map(|active| &active.view);
                        let said = view.and_then(|view| {
                            let stages = view.stages.iter();
                            let mut stages = stages.filter(|view| view.stage == stage.name);
                            stages.next()?.quarantined.get(shard).cloned()
                        });
                        progress.is_fatal |= task.last_failure == Some(FailureKind::Fatal);
                        progress
                            .missing
                            .insert(shard.clone(), said.unwrap_or_default());
                    }
                    _ => {}
                }
            }
        }
        progress
            .open
            .retain(|shard| !progress.missing.contains_key(shard));
        let store = &self.inner.store;
        let read: Vec<Commit> = futures::stream::iter(committed)
            .map(|shard| async move {
                let commit = commits::read(store, &self.run, &stage.name, &shard).await?;
                if let Some(commit) = &commit {
                    recipes::publish(store, commit).await?;
                }
                Ok::<_, Error>(commit)
            })
            .buffered(IN_FLIGHT)
            .try_filter_map(|commit| async { Ok(commit) })
            .try_collect()
            .await?;
        for commit in read {
            progress.open.remove(&commit.shard);
            progress.commits.insert(commit.shard.clone(), commit);
        }
        Ok(())
    }

    fn check_quarantined(&self, stage: &Stage, progress: &Progress) -> Result<(), Error> {
        let quarantined = progress.missing.len();
        let shards = || {
            let named = progress.missing.iter().take(NAMED);
            let named: Vec<String> = named
                .map(|(shard, said)| format!("{shard}: {said}"))
                .collect();
            let more = quarantined.saturating_sub(NAMED);
            let more = if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            };
            format!("{}{more}", named.join("; "))
        };
        let stage = stage.name.clone();
        let allowed = self.pipeline.max_quarantined;
        if progress.is_fatal {
            Err(Error::Fatal {
                stage,
                shards: shards(),
            })
        } else if quarantined as u64 > allowed {
            Err(Error::Quarantined {
                stage,
                quarantined,
                allowed,
                shards: shards(),
            })
        } else {
            Ok(())
        }
    }

    /// Publishes what a stage gave.
    async fn finish(
        &self,
        stage: &Stage,
        progress: &Progress,
        done: Done,
    ) -> Result<StageOutput, Error> {
        let (output, shown) = match done.given {
            Given::Dataset {
                dataset,
                derived_from,
                parts,
            } => {
                let new = versions::NewVersion {
                    dataset,
                    run: self.run.clone(),
                    stage: stage.name.clone(),
                    recipes: done.recipes,
                    derived_from,
                    statistics: done.statistics,
                    missing: progress.missing.keys().cloned().collect(),
                    parts: parts.clone(),
                };
                let version = versions::publish(&self.inner.store, new).await?;
                let shown = serde_json::json!({ "dataset": version.to_string() });
                (StageOutput::Dataset { version, parts }, shown)
            }
            Given::Model(digest) => {
                let shown = serde_json::json!({ "model": digest.to_string() });
                (StageOutput::Model { digest }, shown)
            }
            Given::Figures => (StageOutput::Figures, serde_json::json!({})),
        };
        self.show_done(stage, progress, shown.to_string()).await?;
        Ok(output)
    }

    async fn show_done(
        &self,
        stage: &Stage,
        progress: &Progress,
        output_json: String,
    ) -> Result<(), Error> {
        let now = self.inner.clock.unix_ms();
        let mut core = self.inner.core.lock().await;
        let Some(view) = core.stage_mut(&self.run, &stage.name) else {
            return Ok(());
        };
        view.state = v1::StageState::Done;
        view.tasks = (progress.commits.len() + progress.missing.len()) as u64;
        view.committed = progress.commits.len() as u64;
        view.adopted = progress.already;
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.ended_unix_ms = now;
        view.output_json.clone_from(&output_json);
        let elapsed = now - view.started_unix_ms;
        let done = v1::StageDone {
            stage: stage.name.to_string(),
            output_json,
            elapsed_ms: u64::try_from(elapsed).unwrap_or(0),
        };
        tracing::info!(run = %self.run, stage = %stage.name, elapsed_ms = elapsed, "stage done");
        core.tell(&self.run, v1::event::What::StageDone(done), now);
        self.inner.flush(&mut core).await?;
        Ok(())
    }

    fn key(&self, stage: &Stage, shard: &ShardId) -> Key {
        Key {
            run: self.run.clone(),
            stage: stage.name.clone(),
            shard: shard.clone(),
        }
    }
}

async fn failed(inner: &Inner, run: &RunId, error: &Error) {
    tracing::error!(%run, %error, "run failed");
    end(inner, run, v1::RunState::Failed, &error.to_string()).await;
}

async fn end(inner: &Inner, run: &RunId, state: v1::RunState, reason: &str) {
    let mut core = inner.core.lock().await;
    core.end_run(run, state, reason, inner.clock.unix_ms());
    // A failure to write was logged, and watchers were told in any case.
    let _ = inner.flush(&mut core).await;
}
