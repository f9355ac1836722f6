//! Shards that were given up. This is the only copy: views, drivers and versions read it, and the
//! database stores each change.

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
    /// Whether it fails the run, however many shards the stage may lose.
    pub is_fatal: bool,
    /// Whether it was given up before a submission, a retry or a restart resumed the run. It can
    /// fail the run again only after the other shards were executed.
    pub is_earlier: bool,
}

/// Shards of a stage that were given up.
type GivenUpShards = BTreeMap<ShardId, GivenUp>;

/// Shards that were given up, by run and stage.
#[derive(Debug, Default)]
pub(super) struct GivenUpByRun(BTreeMap<RunId, BTreeMap<StageName, GivenUpShards>>);

impl GivenUpByRun {
    /// Updates the shard of a task whose state changed to or from `Quarantined`.
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
            // An operator retries it, or a commit record was found.
            _ => {
                let run = self.0.get_mut(&key.run);
                if let Some(shards) = run.and_then(|run| run.get_mut(&key.stage)) {
                    shards.remove(&key.shard);
                }
            }
        }
    }

    fn get(&self, run: &RunId, stage: &StageName) -> Option<&GivenUpShards> {
        self.0.get(run)?.get(stage)
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
        self.given_up.get(run, stage).into_iter().flatten()
    }

    /// Number of shards of a stage that were given up.
    pub fn count_given_up(&self, run: &RunId, stage: &StageName) -> usize {
        self.given_up.get(run, stage).map_or(0, BTreeMap::len)
    }

    /// Whether a shard was given up.
    pub fn is_given_up(&self, key: &Key) -> bool {
        let shards = self.given_up.get(&key.run, &key.stage);
        shards.is_some_and(|shards| shards.contains_key(&key.shard))
    }

    /// Adds shards that were given up before the run was resumed. Known shards stay unchanged.
    /// Returns the new ones.
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
