//! Shards that were given up, as the machine says: whether a stage may go on without them.

use capstan_dataset::commits;
use capstan_dataset::lists::PAGE;
use capstan_plan::expand::Tasks;
use capstan_plan::id::ShardId;
use capstan_plan::stage::Stage;

use super::{Driver, Error, Progress};
use crate::machine::{GivenUp, Key};
use crate::scheduler::core::Core;

/// Shards that a reason names.
const NAMED: usize = 3;

impl Driver {
    /// Refuses to go on where more shards than `allowed` were given up, of those that `counts` takes.
    pub(super) fn check(
        &self,
        stage: &Stage,
        allowed: u64,
        counts: impl Fn(&GivenUp) -> bool,
    ) -> Result<(), Error> {
        let core = self.inner.core()?;
        let given_up = core.machine.given_up(&self.run, &stage.name);
        let given_up: Vec<_> = given_up.filter(|(_, given_up)| counts(given_up)).collect();
        let is_fatal = given_up.iter().any(|(_, given_up)| given_up.is_fatal);
        if !is_fatal && given_up.len() as u64 <= allowed {
            return Ok(());
        }
        let named = given_up.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|(shard, given_up)| format!("{shard}: {}", given_up.said))
            .collect();
        let more = match given_up.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let (stage, shards) = (stage.name.clone(), format!("{}{more}", named.join("; ")));
        Err(if is_fatal {
            Error::Fatal { stage, shards }
        } else {
            Error::Quarantined {
                stage,
                quarantined: given_up.len(),
                allowed,
                shards,
            }
        })
    }

    /// Asks the store for the commits of shards that were just given up: a worker may have died, or
    /// lost the answer, after its commit stood. True where one was found, and is in the inbox.
    pub(super) async fn look_for_commits(&mut self, stage: &Stage) -> Result<bool, Error> {
        let mut found = false;
        while let Some(shard) = self.progress(stage).unlooked.last().cloned() {
            let inner = &self.inner;
            let commit = commits::read(&inner.store, &self.run, &stage.name, &shard).await?;
            self.progress(stage).unlooked.pop();
            let Some(commit) = commit else {
                continue;
            };
            let key = self.key(stage, shard);
            let inner = &self.inner;
            let (now, unix_ms) = (inner.clock.now(), inner.clock.unix_ms());
            let stands = |core: &mut Core| core.committed_after_all(&key, commit, now, unix_ms);
            found |= inner.change(stands).await?;
        }
        Ok(found)
    }

    /// Counts the shards of a step that later steps were built without, though this driver did not see
    /// that they were given up.
    pub(super) async fn leave_out(&self, stage: &Stage, tasks: &Tasks) -> Result<(), Error> {
        for from in (0..tasks.len()).step_by(PAGE as usize) {
            let to = (from + PAGE).min(tasks.len());
            let committed = self.committed(stage, tasks, from, to).await?;
            let shards = (from..to).map(|ordinal| tasks.shard(ordinal));
            let said = || "later steps were built without it".to_owned();
            let missing = shards.filter(|shard| !committed.contains(shard));
            let missing: Vec<_> = missing.map(|shard| (shard, said())).collect();
            let leave_out = |core: &mut Core| core.leave_out(&self.run, &stage.name, missing);
            self.inner.change(leave_out).await?;
        }
        Ok(())
    }

    fn progress(&mut self, stage: &Stage) -> &mut Progress {
        self.stages.entry(stage.name.clone()).or_default()
    }

    fn key(&self, stage: &Stage, shard: ShardId) -> Key {
        Key {
            run: self.run.clone(),
            stage: stage.name.clone(),
            shard,
        }
    }
}
