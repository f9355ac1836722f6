//! Adoption of tasks that other runs have done with an equal recipe.

use capstan_dataset::lists::{FileWriter, PAGE};
use capstan_dataset::{Store, commits, lists, recipes, versions};
use capstan_plan::commit::{Commit, File, Outputs, Part};
use capstan_plan::stage::{Overlaid, Stage};
use capstan_plan::task::{Task, Work};
use futures::{StreamExt, TryStreamExt};

use super::{Driver, Error, IN_FLIGHT};
use crate::machine::attempt_id;
use crate::scheduler::core::Core;

/// The worker in the commit records of adopted tasks.
const ADOPTER: &str = "coordinator";

impl Driver {
    /// Adopts the tasks that have an equal recipe. Returns the others.
    pub(super) async fn adopt_all(
        &mut self,
        stage: &Stage,
        tasks: Vec<Task>,
    ) -> Result<Vec<Task>, Error> {
        let this = &*self;
        let looked_up: Vec<(Task, Option<Commit>)> = futures::stream::iter(tasks)
            .map(|task| async move {
                let commit = this.adopt(&task).await?;
                Ok::<_, Error>((task, commit))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let (mut adopted, mut rest) = (Vec::new(), Vec::new());
        for (task, commit) in looked_up {
            match commit {
                Some(commit) => adopted.push(commit),
                None => rest.push(task),
            }
        }
        if !adopted.is_empty() {
            let count = adopted.len() as u64;
            let record = |core: &mut Core| {
                core.add_commits(&self.run, &stage.name, adopted);
                if let Some(view) = core.stage_mut(&self.run, &stage.name) {
                    view.committed += count;
                    view.adopted += count;
                }
                core.queue_planned_event(&self.run, &stage.name, 0, self.inner.clock.unix_ms());
            };
            self.inner.change(record).await?;
        }
        Ok(rest)
    }

    /// Commits the result of an equal recipe for this task. If this run has a commit record for the
    /// task, that record is returned.
    async fn adopt(&self, task: &Task) -> Result<Option<Commit>, Error> {
        let store = &self.inner.store;
        let Some(found) = recipes::adopt(store, &task.recipe).await? else {
            return Ok(None);
        };
        let lease_epoch = self.inner.core()?.machine.next_epoch();
        let commit = Commit {
            run: task.run.clone(),
            stage: task.stage.clone(),
            shard: task.shard.clone(),
            attempt: attempt_id(lease_epoch),
            worker: ADOPTER.into(),
            lease_epoch,
            recipe: task.recipe,
            inputs: found.inputs,
            outputs: rebased(store, &task.work, found.outputs).await?,
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            adopted: true,
        };
        match commits::commit(store, &commit).await? {
            commits::Committed::Mine => Ok(Some(commit)),
            commits::Committed::Others(recorded) => Ok(Some(*recorded)),
        }
    }
}

/// Aligns adopted overlays with the base files of this run. The rows are equal because the recipes
/// are. The files may differ because they contain times.
async fn rebased(store: &Store, work: &Work, mut outputs: Outputs) -> Result<Outputs, Error> {
    match work.overlaid() {
        Overlaid::None => {}
        Overlaid::One(part) => rebase(&mut outputs.files, std::slice::from_ref(part)),
        Overlaid::All(shards) => {
            let pages = versions::Pages::open(store, &shards.version).await?;
            if outputs.manifests.is_empty() {
                rebase(&mut outputs.files, &pages.read(store, 0).await?);
                return Ok(outputs);
            }
            // Both lists have pages of the same length.
            let mut writer = FileWriter::new(store);
            for page in 0..shards.count.div_ceil(PAGE) {
                let mut files = lists::output_page(store, &outputs, page as usize + 1).await?;
                rebase(&mut files, &pages.read(store, page).await?);
                for file in files {
                    writer.push(file).await?;
                }
            }
            outputs.manifests = writer.finish().await?.manifests;
        }
    }
    Ok(outputs)
}

/// Sets the bases of overlays to these shards, in order.
pub(in crate::scheduler) fn rebase(files: &mut [File], parts: &[Part]) {
    let overlays = files.iter_mut().filter(|file| file.base.is_some());
    for (overlay, part) in overlays.zip(parts) {
        overlay.base = Some(part.base.digest);
    }
}
