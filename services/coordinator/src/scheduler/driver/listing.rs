//! The commits of a stage when its driver starts.

use std::collections::BTreeSet;

use capstan_dataset::{commits, runs};
use capstan_plan::commit::Commit;
use capstan_plan::id::ShardId;
use capstan_plan::stage::Stage;
use futures::{StreamExt, TryStreamExt};

use super::{Driver, Error, IN_FLIGHT, database_error};
use crate::scheduler::core::Core;

/// Number of commits that are compared with the database at a time.
const CHUNK: usize = 1_024;
/// Sorts after every shard name.
const LAST: &str = "\u{10ffff}";

impl Driver {
    /// Lists, once per driver, what is committed of a stage. Returns true if its version is
    /// published, so that the stage is done.
    pub(super) async fn list(&mut self, stage: &Stage) -> Result<bool, Error> {
        let known = self.stages.get(&stage.name);
        if known.is_some_and(|progress| progress.is_listed) {
            return Ok(false);
        }
        let found = self.sync_commits(stage).await?;
        if found > 0
            && let Some(output) = self.published(stage).await?
        {
            self.outputs.insert(stage.name.clone(), output);
            self.stages.remove(&stage.name);
            return Ok(true);
        }
        let device = match stage.kind.settings().computes() {
            true => runs::device(&self.inner.store, &self.run, &stage.name).await?,
            false => None,
        };
        let progress = self.stages.entry(stage.name.clone()).or_default();
        progress.device = device;
        progress.is_listed = true;
        Ok(false)
    }

    /// Makes the database hold exactly the commits of a stage that the store has. Returns their
    /// number. Needed once per submission of a run: later commits are added as they are made.
    async fn sync_commits(&self, stage: &Stage) -> Result<u64, Error> {
        let (inner, run, name) = (&self.inner, &self.run, &stage.name);
        if inner
            .database
            .is_listed(run, name)
            .await
            .map_err(database_error)?
        {
            return Ok(self.with_view(stage, |view| view.committed)?.unwrap_or(0));
        }
        let mut shards = commits::shards_of_stage(&inner.store, run, name).await?;
        shards.sort();
        let mut after = ShardId(String::new());
        for chunk in shards.chunks(CHUNK) {
            let last = chunk.last().cloned().unwrap_or_else(|| after.clone());
            self.sync_range(stage, &after, &last, chunk).await?;
            after = last;
        }
        self.sync_range(stage, &after, &LAST.into(), &[]).await?;
        let found = shards.len() as u64;
        let listed = |core: &mut Core| {
            core.listed(run, name);
            if let Some(view) = core.stage_mut(run, name) {
                view.committed = found;
                // After a restart of the coordinator these commits are work of this submission, not
                // adopted.
                if view.started_unix_ms == 0 {
                    view.adopted = found;
                }
            }
        };
        inner.change(listed).await?;
        Ok(found)
    }

    /// Makes the database hold exactly `stored` among the commits of shards after `after`, up to
    /// `last`.
    async fn sync_range(
        &self,
        stage: &Stage,
        after: &ShardId,
        last: &ShardId,
        stored: &[ShardId],
    ) -> Result<(), Error> {
        let inner = &self.inner;
        let shards = self.shards(stage, after, last);
        let mut known = inner
            .database
            .committed(shards)
            .await
            .map_err(database_error)?;
        known.remove(after);
        let stored: BTreeSet<&ShardId> = stored.iter().collect();
        let new = stored.iter().filter(|shard| !known.contains(**shard));
        let new: Vec<ShardId> = new.map(|shard| (*shard).clone()).collect();
        let new: Vec<Option<Commit>> = futures::stream::iter(new)
            .map(|shard| async move {
                commits::read(&inner.store, &self.run, &stage.name, &shard).await
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let new: Vec<Commit> = new.into_iter().flatten().collect();
        let gone = known.into_iter().filter(|shard| !stored.contains(shard));
        let gone: Vec<ShardId> = gone.collect();
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let learn = |core: &mut Core| {
            core.add_commits(&self.run, &stage.name, new);
            core.remove_commits(&self.run, &stage.name, gone);
        };
        Ok(inner.change(learn).await?)
    }
}
