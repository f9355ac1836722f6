//! What became of tasks since the driver looked last.

use capstan_dataset::recipes;
use capstan_plan::commit::Commit;
use capstan_plan::id::StageName;
use futures::{StreamExt, TryStreamExt};

use super::{Driver, Error, IN_FLIGHT};
use crate::scheduler::core::Note;

impl Driver {
    /// Takes the notes of the inbox, in order. Those of stages that are done tell nothing new.
    pub(super) fn take_inbox(&mut self) -> Result<(), Error> {
        let notes = {
            let mut core = self.inner.core()?;
            let active = core.runs.get_mut(&self.run);
            active.map(|active| std::mem::take(&mut active.inbox))
        };
        for note in notes.unwrap_or_default() {
            let stage = match &note {
                Note::Committed(commit) => &commit.stage,
                Note::GivenUp { stage, .. } | Note::Retried { stage, .. } => stage,
            };
            if self.outputs.contains_key(stage) {
                continue;
            }
            let progress = self.stages.entry(stage.clone()).or_default();
            match note {
                Note::Committed(commit) => {
                    let shard = commit.shard.clone();
                    progress.open.remove(&shard);
                    progress.missing.remove(&shard);
                    progress.unpublished.push(shard.clone());
                    progress.commits.insert(shard, *commit);
                }
                Note::GivenUp {
                    shard,
                    said,
                    is_fatal,
                    ..
                } => {
                    progress.open.remove(&shard);
                    progress.is_fatal |= is_fatal;
                    progress.missing.insert(shard, said);
                }
                Note::Retried { shard, .. } => {
                    progress.missing.remove(&shard);
                    progress.open.insert(shard);
                }
            }
        }
        Ok(())
    }

    /// Points recipes at the commits that came in, so that other runs may adopt them.
    pub(super) async fn publish_recipes(&mut self, stage: &StageName) -> Result<(), Error> {
        let Some(progress) = self.stages.get_mut(stage) else {
            return Ok(());
        };
        let store = &self.inner.store;
        let shards = progress.unpublished.iter();
        let commits: Vec<Commit> = shards
            .filter_map(|shard| progress.commits.get(shard).cloned())
            .collect();
        futures::stream::iter(commits)
            .map(|commit| async move { recipes::publish(store, &commit).await })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        progress.unpublished.clear();
        Ok(())
    }
}
