//! One step of a stage: what was made before is adopted, the rest goes to the machine.

use std::collections::BTreeSet;

use capstan_dataset::{commits, recipes};
use capstan_plan::commit::{Commit, Outputs};
use capstan_plan::id::ShardId;
use capstan_plan::stage::Stage;
use capstan_plan::task::{Task, Work};
use capstan_proto::v1;
use futures::{StreamExt, TryStreamExt};

use super::{Driver, Error, IN_FLIGHT, Progress};
use crate::machine::{Key, Spec, attempt_id};
use crate::state::NewTask;

/// Who stands in the commit records of adopted tasks.
const ADOPTER: &str = "coordinator";

impl Driver {
    /// Begins a step: adopts what was made before and hands the rest to the machine.
    pub(super) async fn begin(
        &self,
        stage: &Stage,
        progress: &mut Progress,
        tasks: Vec<Task>,
    ) -> Result<(), Error> {
        let step_tasks = tasks.len() as u64;
        let is_settled = |task: &Task| {
            progress.commits.contains_key(&task.shard) || progress.missing.contains_key(&task.shard)
        };
        let wanted: Vec<Task> = tasks.into_iter().filter(|task| !is_settled(task)).collect();
        let adopted: Vec<(Task, Option<Commit>)> = futures::stream::iter(wanted)
            .map(|task| async move {
                let commit = self.adopt(&task).await?;
                Ok::<_, Error>((task, commit))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let mut rest = Vec::new();
        for (task, commit) in adopted {
            match commit {
                Some(commit) => {
                    progress.already += 1;
                    progress.commits.insert(task.shard.clone(), commit);
                }
                None => rest.push(task),
            }
        }
        let open: BTreeSet<ShardId> = rest.iter().map(|task| task.shard.clone()).collect();
        self.hand_over(stage, progress, step_tasks, rest).await?;
        progress.open = open;
        Ok(())
    }

    /// Takes over the commit of an earlier run of the same recipe. A commit of this run that
    /// stands already counts as well.
    async fn adopt(&self, task: &Task) -> Result<Option<Commit>, Error> {
        let store = &self.inner.store;
        let Some(found) = recipes::adopt(store, &task.recipe).await? else {
            return Ok(None);
        };
        let lease_epoch = self.inner.core.lock().await.machine.next_epoch();
        let commit = Commit {
            run: task.run.clone(),
            stage: task.stage.clone(),
            shard: task.shard.clone(),
            attempt: attempt_id(lease_epoch),
            worker: ADOPTER.into(),
            lease_epoch,
            recipe: task.recipe,
            inputs: found.inputs,
            outputs: rebased(&task.work, found.outputs),
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            adopted: true,
        };
        match commits::commit(store, &commit).await? {
            commits::Committed::Mine => Ok(Some(commit)),
            commits::Committed::Others(standing) => Ok(Some(*standing)),
        }
    }

    /// Gives tasks to the machine and tells what the step is.
    async fn hand_over(
        &self,
        stage: &Stage,
        progress: &Progress,
        step_tasks: u64,
        tasks: Vec<Task>,
    ) -> Result<(), Error> {
        let new: Vec<NewTask> = tasks.iter().map(|task| new_task(stage, task)).collect();
        let known = (progress.commits.len() + progress.missing.len() + new.len()) as u64;
        let now = self.inner.clock.unix_ms();
        let mut core = self.inner.core.lock().await;
        let is_running = core
            .runs
            .get(&self.run)
            .is_some_and(|run| !run.stop.is_cancelled());
        if !is_running {
            return Ok(());
        }
        self.inner
            .database
            .add_tasks(&new)
            .await
            .map_err(crate::Error::from)?;
        let Some(view) = core.stage_mut(&self.run, &stage.name) else {
            return Ok(());
        };
        view.state = v1::StageState::Running;
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.tasks = known;
        view.committed = progress.commits.len() as u64;
        view.adopted = progress.already;
        let planned = v1::StagePlanned {
            stage: stage.name.to_string(),
            tasks: known,
            step_tasks,
            already_committed: step_tasks - (new.len() as u64).min(step_tasks),
        };
        core.tell(&self.run, v1::event::What::StagePlanned(planned), now);
        for task in new {
            core.machine.add(task.key, task.spec);
        }
        self.inner.flush(&mut core).await?;
        drop(core);
        self.inner.pump.notify_one();
        Ok(())
    }
}

fn new_task(stage: &Stage, task: &Task) -> NewTask {
    let base = match &task.work {
        Work::Curate { part, .. } | Work::Caption { part, .. } | Work::Filter { part, .. } => {
            Some(part.base.digest)
        }
        _ => None,
    };
    NewTask {
        key: Key {
            run: task.run.clone(),
            stage: stage.name.clone(),
            shard: task.shard.clone(),
        },
        spec: Spec {
            role: task.work.role(),
            world_size: task.work.world_size(),
            base,
        },
        task_json: serde_json::to_string(task).expect("tasks are plain data with text keys"),
    }
}

/// Adopted overlays, aligned with the base files of this run: the rows are equal, as the recipe
/// says, but the files need not be (they hold times).
pub(in crate::scheduler) fn rebased(work: &Work, mut outputs: Outputs) -> Outputs {
    let overlays = outputs.files.iter_mut().filter(|file| file.base.is_some());
    match work {
        Work::Curate { part, .. } | Work::Caption { part, .. } | Work::Filter { part, .. } => {
            overlays.for_each(|file| file.base = Some(part.base.digest));
        }
        Work::Balance { parts, .. } => {
            overlays
                .zip(parts)
                .for_each(|(file, part)| file.base = Some(part.base.digest));
        }
        _ => {}
    }
    outputs
}
