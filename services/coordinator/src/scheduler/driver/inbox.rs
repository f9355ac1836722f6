//! The inbox: changes of tasks since the driver's last pass.

use capstan_dataset::recipes;
use capstan_plan::commit::Commit;
use capstan_plan::id::StageName;
use futures::StreamExt;

use super::{Driver, Error, IN_FLIGHT};
use crate::scheduler::core::Note;

impl Driver {
    /// Processes the notes of the inbox in order. Notes of stages that are done are ignored.
    pub(super) fn take_inbox(&mut self) -> Result<(), Error> {
        let notes = {
            let mut core = self.inner.core()?;
            let active = core.runs.get_mut(&self.run);
            active.map(|active| std::mem::take(&mut active.inbox))
        };
        for note in notes.unwrap_or_default() {
            let stage = match &note {
                Note::Committed { stage, .. }
                | Note::GivenUp { stage, .. }
                | Note::Retried { stage, .. } => stage,
            };
            if self.outputs.contains_key(stage) {
                continue;
            }
            let progress = self.stages.entry(stage.clone()).or_default();
            match note {
                Note::Committed {
                    shard, unpublished, ..
                } => {
                    progress.mark_committed(&shard);
                    progress
                        .unpublished
                        .extend(unpublished.map(|commit| *commit));
                }
                Note::GivenUp { shard, .. } => {
                    progress.mark_final(&shard);
                    progress.unchecked.push(shard);
                }
                Note::Retried { shard, .. } => {
                    progress.unchecked.retain(|given_up| *given_up != shard);
                    if let Some(window) = &mut progress.window {
                        window.open.insert(shard);
                    }
                }
            }
        }
        Ok(())
    }

    /// Publishes the recipes of new commits, so that other runs can adopt them. Workers publish those of
    /// the commits that they report.
    pub(super) async fn publish_recipes(&mut self, stage: &StageName) -> Result<(), Error> {
        let Some(progress) = self.stages.get_mut(stage) else {
            return Ok(());
        };
        let commits = std::mem::take(&mut progress.unpublished);
        let store = &self.inner.store;
        let published: Vec<(Commit, Result<(), _>)> = futures::stream::iter(commits)
            .map(|commit| async move {
                let published = recipes::publish(store, &commit).await;
                (commit, published)
            })
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await;
        let mut failed = None;
        for (commit, published) in published {
            if let Err(error) = published {
                progress.unpublished.push(commit);
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
