//! Shards that were given up: whether a stage may continue without them.

use capstan_dataset::commits;
use capstan_dataset::lists::PAGE;
use capstan_plan::expand::Tasks;
use capstan_plan::id::ShardId;
use capstan_plan::stage::Stage;

use super::{Driver, Error, Progress};
use crate::machine::{GivenUp, Key};
use crate::scheduler::core::Core;

/// Maximum number of shards that an error names.
const NAMED: usize = 3;

impl Driver {
    /// Fails if more shards than `allowed` were given up, counting those that `counts` selects.
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
            .map(|(shard, given_up)| format!("{shard}: {}", given_up.reason))
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

    /// Looks in the store for commits of shards that were just given up: a worker may have died, or
    /// missed the answer, after its commit. Returns whether one was found; it is in the inbox.
    pub(super) async fn find_commits(&mut self, stage: &Stage) -> Result<bool, Error> {
        let mut found = false;
        while let Some(shard) = self.progress(stage).unchecked.last().cloned() {
            let inner = &self.inner;
            let commit = commits::read(&inner.store, &self.run, &stage.name, &shard).await?;
            self.progress(stage).unchecked.pop();
            let Some(commit) = commit else {
                continue;
            };
            let key = self.key(stage, shard);
            let inner = &self.inner;
            let (now, unix_ms) = (inner.clock.now(), inner.clock.unix_ms());
            let commit = |core: &mut Core| core.commit_given_up(&key, commit, now, unix_ms);
            found |= inner.change(commit).await?;
        }
        Ok(found)
    }

    /// Marks shards of an earlier step as given up if later steps have read the step without them.
    /// This driver did not see how they failed.
    pub(super) async fn give_up_missing(&self, stage: &Stage, tasks: &Tasks) -> Result<(), Error> {
        for from in (0..tasks.len()).step_by(PAGE as usize) {
            let to = (from + PAGE).min(tasks.len());
            let committed = self.committed(stage, tasks, from, to).await?;
            let shards = (from..to).map(|ordinal| tasks.shard(ordinal));
            let reason = || "later steps were built without it".to_owned();
            let missing = shards.filter(|shard| !committed.contains(shard));
            let missing: Vec<_> = missing.map(|shard| (shard, reason())).collect();
            let give_up = |core: &mut Core| core.add_given_up(&self.run, &stage.name, missing);
            self.inner.change(give_up).await?;
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
