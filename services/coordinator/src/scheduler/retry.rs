//! Trying again what was given up.

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

/// A run that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    /// Where it stands now.
    pub state: v1::RunState,
    /// Shards that are tried again.
    pub shards: u64,
}

/// Which shards are meant.
struct Choice {
    stage: Option<StageName>,
    shard: Option<ShardId>,
}

impl Choice {
    fn takes(&self, stage: &StageName, shard: &ShardId) -> bool {
        self.stage.as_ref().is_none_or(|chosen| chosen == stage)
            && self.shard.as_ref().is_none_or(|chosen| chosen == shard)
    }

    /// Shards given up that are meant, of stages that are not done.
    fn of(&self, view: &RunView) -> Vec<(StageName, ShardId)> {
        let open = view
            .stages
            .iter()
            .filter(|s| s.state != v1::StageState::Done);
        open.flat_map(|stage| {
            let shards = stage.quarantined.keys();
            shards.map(|shard| (stage.stage.clone(), shard.clone()))
        })
        .filter(|(stage, shard)| self.takes(stage, shard))
        .collect()
    }
}

impl Handle {
    /// Tries again what was given up, with attempts counted anew: every such shard of a run, those
    /// of one stage, or one shard. A run that failed or was cancelled goes on; shards that are not
    /// meant stay given up.
    ///
    /// A stage that is done has published a version that says what is missing, and a step of a
    /// crawl that others built on is over: neither can be tried again.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::UnknownStage`], [`Error::NothingToRetry`]; a shard without
    /// its stage is [`Error::Request`]; [`Error::Database`].
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
        self.inner.takes_work()?;
        let view = self.run(run).await?;
        if let Some(stage) = &stage
            && !view.stages.iter().any(|view| &view.stage == stage)
        {
            return Err(Error::UnknownStage {
                run: run.clone(),
                stage: stage.clone(),
            });
        }
        let choice = Choice { stage, shard };
        match view.state {
            v1::RunState::Running => self.retry_running(run, &choice).await,
            v1::RunState::Failed | v1::RunState::Cancelled => self.retry_ended(view, &choice).await,
            v1::RunState::Done | v1::RunState::Unspecified => Err(Error::NothingToRetry {
                run: run.clone(),
                reason: "it is done",
            }),
        }
    }

    async fn retry_running(&self, run: &RunId, choice: &Choice) -> Result<Retried, Error> {
        let retry = |core: &mut Core| {
            let chosen = core.shown(run).map(|view| choice.of(&view));
            let chosen = chosen.unwrap_or_default();
            let keys = chosen.iter().map(|(stage, shard)| Key {
                run: run.clone(),
                stage: stage.clone(),
                shard: shard.clone(),
            });
            let tried = keys.filter(|key| core.machine.retry(key)).count() as u64;
            (chosen.len(), tried)
        };
        let (chosen, shards) = self.inner.change(retry).await?;
        if shards == 0 {
            let reason = match chosen {
                0 => "no such shard was given up",
                _ => {
                    "its step is over, or it was given up before the run went on: see how that ends"
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

    async fn retry_ended(&self, ended: RunView, choice: &Choice) -> Result<Retried, Error> {
        let run = ended.run.clone();
        let pipeline: Pipeline =
            serde_json::from_str(&ended.pipeline_json).map_err(|error| Error::Pipeline {
                reason: error.to_string(),
            })?;
        let mut chosen = choice.of(&ended);
        let given_up = chosen.len();
        for stage in &pipeline.stages {
            if matches!(stage.kind.split(), Split::Waves) {
                self.keep_open(&run, stage, &mut chosen).await?;
            }
        }
        if choice.stage.is_some() && chosen.is_empty() {
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
                let tried = |shard: &ShardId| {
                    let mut chosen = chosen.iter();
                    chosen.any(|(of, chosen)| of == &before.stage && chosen == shard)
                };
                stage.quarantined.retain(|shard, _| !tried(shard));
            }
        }
        tracing::info!(%run, shards = chosen.len(), "run tried again");
        self.go_on(view, true).await?;
        Ok(Retried {
            state: v1::RunState::Running,
            shards: chosen.len() as u64,
        })
    }

    /// Keeps, of the shards of a stage, those that no later step was built without.
    async fn keep_open(
        &self,
        run: &RunId,
        stage: &Stage,
        chosen: &mut Vec<(StageName, ShardId)>,
    ) -> Result<(), Error> {
        let settings = stage.kind.settings();
        let of_stage = chosen.iter().filter(|(of, _)| of == &stage.name);
        let followers = of_stage.filter_map(|(_, shard)| settings.follower(shard));
        let followers: BTreeSet<ShardId> = followers.collect();
        for follower in followers {
            let commit = commits::read(&self.inner.store, run, &stage.name, &follower).await?;
            if commit.is_some() {
                let is_over = |shard: &ShardId| settings.follower(shard) == Some(follower.clone());
                chosen.retain(|(of, shard)| of != &stage.name || !is_over(shard));
            }
        }
        Ok(())
    }
}
