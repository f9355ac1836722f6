//! Shards that were given up. No other place keeps them: views, drivers and versions are read from
//! here, and the database stores each change.

use std::collections::BTreeMap;

use capstan_plan::FailureKind;
use capstan_plan::id::{RunId, ShardId, StageName};

use super::Machine;
use super::task::{Key, State, Task};

/// A shard that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Why.
    pub reason: String,
    /// Whether that ends the run, however many shards the stage may lose.
    pub is_fatal: bool,
    /// Whether it was given up before the run went on, by a submission, a retry or a restart. What
    /// ended the run then is tried again, or was within what may be missing.
    pub is_earlier: bool,
}

/// Shards of a stage that were given up.
pub type GivenUpShards = BTreeMap<ShardId, GivenUp>;

/// Shards that were given up, by run and stage.
#[derive(Debug, Default)]
pub(super) struct GivenUpByRun(BTreeMap<RunId, BTreeMap<StageName, GivenUpShards>>);

impl GivenUpByRun {
    /// Notes the state that a task has now.
    pub(super) fn moved(&mut self, key: &Key, task: &Task, message: &str) {
        match task.state {
            State::Quarantined => {
                let given_up = GivenUp {
                    reason: message.to_owned(),
                    is_fatal: task.last_failure == Some(FailureKind::Fatal),
                    is_earlier: false,
                };
                self.of_stage(&key.run, &key.stage)
                    .insert(key.shard.clone(), given_up);
            }
            // An operator retries it, or its commit stands after all.
            _ => {
                let run = self.0.get_mut(&key.run);
                if let Some(shards) = run.and_then(|run| run.get_mut(&key.stage)) {
                    shards.remove(&key.shard);
                }
            }
        }
    }

    fn of_stage(&mut self, run: &RunId, stage: &StageName) -> &mut GivenUpShards {
        let stages = self.0.entry(run.clone()).or_default();
        stages.entry(stage.clone()).or_default()
    }

    pub(super) fn forget(&mut self, run: &RunId) {
        self.0.remove(run);
    }
}

impl Machine {
    /// Shards of a stage that were given up.
    pub fn given_up<'a>(
        &'a self,
        run: &RunId,
        stage: &StageName,
    ) -> impl Iterator<Item = (&'a ShardId, &'a GivenUp)> + use<'a> {
        let shards = self.given_up.0.get(run).and_then(|run| run.get(stage));
        shards.into_iter().flatten()
    }

    /// How many shards of a stage were given up.
    pub fn count_given_up(&self, run: &RunId, stage: &StageName) -> usize {
        let shards = self.given_up.0.get(run).and_then(|run| run.get(stage));
        shards.map_or(0, BTreeMap::len)
    }

    /// Whether a shard was given up.
    pub fn is_given_up(&self, key: &Key) -> bool {
        let stage = self
            .given_up
            .0
            .get(&key.run)
            .and_then(|run| run.get(&key.stage));
        stage.is_some_and(|shards| shards.contains_key(&key.shard))
    }

    /// Notes shards that were given up before the run went on. Those that are known stay as they are.
    /// Returns the others.
    pub fn add_given_up(
        &mut self,
        run: &RunId,
        stage: &StageName,
        shards: impl IntoIterator<Item = (ShardId, String)>,
    ) -> Vec<(ShardId, String)> {
        let known = self.given_up.of_stage(run, stage);
        let is_new = |(shard, _): &(ShardId, String)| !known.contains_key(shard);
        let new: Vec<_> = shards.into_iter().filter(is_new).collect();
        for (shard, reason) in &new {
            let given_up = GivenUp {
                reason: reason.clone(),
                is_fatal: false,
                is_earlier: true,
            };
            known.insert(shard.clone(), given_up);
        }
        new
    }
}
