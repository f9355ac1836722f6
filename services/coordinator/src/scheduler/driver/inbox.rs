//! What became of tasks since the driver looked last.

use capstan_dataset::{commits, recipes};
use capstan_plan::commit::Commit;
use capstan_plan::id::StageName;
use capstan_plan::stage::Stage;
use futures::StreamExt;

use super::{Driver, Error, GivenUp, IN_FLIGHT, Since};
use crate::machine::Key;
use crate::scheduler::core::{Core, Note};

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
                    progress.committed(&commit.shard);
                    progress.missing.remove(&commit.shard);
                    progress.unpublished.push(*commit);
                }
                Note::GivenUp {
                    shard,
                    said,
                    is_fatal,
                    ..
                } => {
                    progress.settled(&shard);
                    let given_up = GivenUp {
                        said,
                        is_fatal,
                        since: Since::Now,
                    };
                    progress.missing.insert(shard, given_up);
                }
                Note::Retried { shard, .. } => {
                    progress.missing.remove(&shard);
                    if let Some(window) = &mut progress.window {
                        window.open.insert(shard);
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the store for the commits of shards that were just given up: a worker may have died, or
    /// lost the answer, after its commit stood. True where one was found, and is in the inbox.
    pub(super) async fn look_for_commits(&mut self, stage: &Stage) -> Result<bool, Error> {
        let Some(progress) = self.stages.get_mut(&stage.name) else {
            return Ok(false);
        };
        let is_new = |given_up: &&mut GivenUp| given_up.since == Since::Now;
        let new = progress
            .missing
            .iter_mut()
            .filter(|(_, given_up)| is_new(given_up));
        let mut found = false;
        for (shard, given_up) in new {
            let inner = &self.inner;
            let commit = commits::read(&inner.store, &self.run, &stage.name, shard).await?;
            given_up.since = Since::Looked;
            let Some(commit) = commit else {
                continue;
            };
            let key = Key {
                run: self.run.clone(),
                stage: stage.name.clone(),
                shard: shard.clone(),
            };
            let (now, unix_ms) = (inner.clock.now(), inner.clock.unix_ms());
            let stands = |core: &mut Core| core.committed_after_all(&key, commit, now, unix_ms);
            found |= inner.change(stands).await?;
        }
        Ok(found)
    }

    /// Points recipes at the commits that came in, so that other runs may adopt them.
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
