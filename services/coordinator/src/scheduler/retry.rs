//! Retrying shards that were given up.

use std::collections::BTreeSet;

use capstan_dataset::commits;
use capstan_plan::Pipeline;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_plan::stage::{Split, Stage};
use capstan_proto::v1;

use super::Handle;
use super::core::Core;
use crate::error::Error;
use crate::machine::Key;
use crate::view::RunView;

/// A run that was resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    /// Its state.
    pub state: v1::RunState,
    /// Number of shards that are retried.
    pub shards: u64,
}

/// The shards to retry: all, those of a stage, or one.
struct Selection {
    stage: Option<StageName>,
    shard: Option<ShardId>,
}

impl Selection {
    fn matches(&self, stage: &StageName, shard: &ShardId) -> bool {
        self.stage.as_ref().is_none_or(|selected| selected == stage)
            && self.shard.as_ref().is_none_or(|selected| selected == shard)
    }

    /// The selected shards that were given up, in stages that are not done.
    fn select(&self, view: &RunView) -> Vec<(StageName, ShardId)> {
        let open = view
            .stages
            .iter()
            .filter(|s| s.state != v1::StageState::Done);
        open.flat_map(|stage| {
            let shards = stage.quarantined.keys();
            shards.map(|shard| (stage.stage.clone(), shard.clone()))
        })
        .filter(|(stage, shard)| self.matches(stage, shard))
        .collect()
    }
}

impl Handle {
    /// Retries shards that were given up: all of a run, those of one stage, or one. Their attempts
    /// count from 0. A run that failed or was cancelled resumes. Other shards stay given up.
    ///
    /// Two kinds of shards cannot be retried: those of a stage that is done, because its version
    /// lists them as missing, and those of a crawl step that later steps have read.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::UnknownStage`], [`Error::NothingToRetry`];
    /// [`Error::Request`]: a shard without its stage; [`Error::Database`].
    pub async fn retry(
        &self,
        run: &RunId,
        stage: Option<StageName>,
        shard: Option<ShardId>,
    ) -> Result<Retried, Error> {
        if shard.is_some() && stage.is_none() {
            return Err(Error::Request {
                reason: "names a shard without its stage",
            });
        }
        self.inner.check_accepts_work()?;
        let view = self.run(run).await?;
        if let Some(stage) = &stage
            && !view.stages.iter().any(|view| &view.stage == stage)
        {
            return Err(Error::UnknownStage {
                run: run.clone(),
                stage: stage.clone(),
            });
        }
        let selection = Selection { stage, shard };
        match view.state {
            v1::RunState::Running => self.retry_running(run, &selection).await,
            v1::RunState::Failed | v1::RunState::Cancelled => {
                self.retry_ended(view, &selection).await
            }
            v1::RunState::Done | v1::RunState::Unspecified => Err(Error::NothingToRetry {
                run: run.clone(),
                reason: "it is done",
            }),
        }
    }

    async fn retry_running(&self, run: &RunId, selection: &Selection) -> Result<Retried, Error> {
        let retry = |core: &mut Core| {
            let selected = core.run_view(run).map(|view| selection.select(&view));
            let selected = selected.unwrap_or_default();
            let keys = selected.iter().map(|(stage, shard)| Key {
                run: run.clone(),
                stage: stage.clone(),
                shard: shard.clone(),
            });
            let retried = keys.filter(|key| core.machine.retry(key)).count() as u64;
            (selected.len(), retried)
        };
        let (selected, shards) = self.inner.change(retry).await?;
        if shards == 0 {
            let reason = match selected {
                0 => "no such shard was given up",
                _ => {
                    "its step is over, or it was given up before the run was resumed: wait until the run ends"
                }
            };
            return Err(Error::NothingToRetry {
                run: run.clone(),
                reason,
            });
        }
        let state = v1::RunState::Running;
        Ok(Retried { state, shards })
    }

    async fn retry_ended(&self, ended: RunView, selection: &Selection) -> Result<Retried, Error> {
        let run = ended.run.clone();
        let pipeline: Pipeline =
            serde_json::from_str(&ended.pipeline_json).map_err(|error| Error::Pipeline {
                reason: error.to_string(),
            })?;
        let mut selected = selection.select(&ended);
        let given_up = selected.len();
        for stage in &pipeline.stages {
            if matches!(stage.kind.split(), Split::Waves) {
                self.keep_retryable(&run, stage, &mut selected).await?;
            }
        }
        if selection.stage.is_some() && selected.is_empty() {
            let reason = match given_up {
                0 => "no such shard was given up",
                _ => "later steps were built without it",
            };
            return Err(Error::NothingToRetry { run, reason });
        }
        let now = self.inner.clock.unix_ms();
        let mut view = RunView::new(
            run.clone(),
            &pipeline,
            ended.pipeline_json.clone(),
            ended.seed,
            now,
        );
        for before in ended.stages {
            if let Some(stage) = view.stage_mut(&before.stage) {
                stage.quarantined = before.quarantined;
                let is_retried = |shard: &ShardId| {
                    let mut selected = selected.iter();
                    selected.any(|(of, selected)| of == &before.stage && selected == shard)
                };
                stage.quarantined.retain(|shard, _| !is_retried(shard));
            }
        }
        tracing::info!(%run, shards = selected.len(), "retrying a run");
        self.start_or_resume(view, true).await?;
        Ok(Retried {
            state: v1::RunState::Running,
            shards: selected.len() as u64,
        })
    }

    /// Removes the shards of a stage whose step later steps have read.
    async fn keep_retryable(
        &self,
        run: &RunId,
        stage: &Stage,
        selected: &mut Vec<(StageName, ShardId)>,
    ) -> Result<(), Error> {
        let settings = stage.kind.settings();
        let of_stage = selected.iter().filter(|(of, _)| of == &stage.name);
        let followers = of_stage.filter_map(|(_, shard)| settings.follower(shard));
        let followers: BTreeSet<ShardId> = followers.collect();
        for follower in followers {
            let commit = commits::read(&self.inner.store, run, &stage.name, &follower).await?;
            if commit.is_some() {
                let was_read = |shard: &ShardId| settings.follower(shard) == Some(follower.clone());
                selected.retain(|(of, shard)| of != &stage.name || !was_read(shard));
            }
        }
        Ok(())
    }
}
