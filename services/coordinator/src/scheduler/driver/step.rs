//! One step of a stage: what was made before is adopted, the rest goes to the machine.

use std::collections::BTreeSet;

use capstan_dataset::{commits, recipes};
use capstan_plan::commit::{Commit, Outputs};
use capstan_plan::id::DeviceKind;
use capstan_plan::stage::Stage;
use capstan_plan::task::{Task, Work};
use capstan_proto::v1;
use futures::{StreamExt, TryStreamExt};

use super::{Driver, Error, IN_FLIGHT};
use crate::machine::{Key, Spec, attempt_id};
use crate::scheduler::core::Core;
use crate::state::NewTask;

/// Who stands in the commit records of adopted tasks.
const ADOPTER: &str = "coordinator";

/// Tasks that are handed to the machine under one lock.
const CHUNK: usize = 1_000;

impl Driver {
    /// Begins a step: adopts what was made before and hands the rest to the machine.
    pub(super) async fn begin(&mut self, stage: &Stage, tasks: Vec<Task>) -> Result<(), Error> {
        let step_tasks = tasks.len() as u64;
        let progress = &self.stages[&stage.name];
        let open = tasks
            .iter()
            .filter(|task| !progress.commits.contains_key(&task.shard));
        // Those given up among them: they may be tried again for as long as their step goes on.
        let staying: BTreeSet<Key> = open.map(|task| self.key(stage, &task.shard)).collect();
        let is_settled = |task: &Task| {
            progress.commits.contains_key(&task.shard) || progress.missing.contains_key(&task.shard)
        };
        let wanted: Vec<Task> = tasks.into_iter().filter(|task| !is_settled(task)).collect();
        let this = &*self;
        let adopted: Vec<(Task, Option<Commit>)> = futures::stream::iter(wanted)
            .map(|task| async move {
                let commit = this.adopt(&task).await?;
                Ok::<_, Error>((task, commit))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let progress = self.stages.entry(stage.name.clone()).or_default();
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
        let open = rest.iter().map(|task| task.shard.clone()).collect();
        if self.hand_over(stage, step_tasks, staying, rest).await? {
            let progress = self.stages.entry(stage.name.clone()).or_default();
            progress.open = open;
        }
        Ok(())
    }

    /// Takes over the commit of an earlier run of the same recipe. A commit of this run that
    /// stands already counts as well.
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

    /// Tells what the step is, and gives its tasks to the machine, a chunk at a time, so that
    /// others get their turn in between. False where the step before is not over after all, since
    /// a shard of it is tried again: then nothing was done.
    async fn hand_over(
        &self,
        stage: &Stage,
        step_tasks: u64,
        staying: BTreeSet<Key>,
        tasks: Vec<Task>,
    ) -> Result<bool, Error> {
        let new = tasks.len() as u64;
        let begin = |core: &mut Core| {
            let begins = !core.is_retried(&self.run, &stage.name);
            if begins {
                core.machine.forget_step(&self.run, &stage.name, &staying);
                self.show_step(core, stage, step_tasks, new);
            }
            begins
        };
        if !self.inner.change(begin).await? {
            return Ok(false);
        }
        let device = self.stages[&stage.name].device.clone();
        let mut tasks = tasks.into_iter();
        loop {
            let chunk = tasks.by_ref().take(CHUNK);
            let chunk: Vec<NewTask> = chunk
                .map(|task| new_task(stage, device.as_ref(), &task))
                .collect();
            if chunk.is_empty() {
                return Ok(true);
            }
            let add = |core: &mut Core| {
                let run = core.runs.get(&self.run);
                if run.is_some_and(|run| !run.stop.is_cancelled()) {
                    core.add(chunk);
                }
            };
            self.inner.change(add).await?;
        }
    }

    fn show_step(&self, core: &mut Core, stage: &Stage, step_tasks: u64, new: u64) {
        let now = self.inner.clock.unix_ms();
        let progress = &self.stages[&stage.name];
        // Commits that came in meanwhile are shown, but not taken from the inbox yet.
        let committed = progress.commits.len() as u64 + core.noted(&self.run, &stage.name);
        let known = (progress.commits.len() + progress.missing.len()) as u64 + new;
        let Some(view) = core.stage_mut(&self.run, &stage.name) else {
            return;
        };
        view.state = v1::StageState::Running;
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.tasks = known;
        view.committed = committed;
        view.adopted = progress.already;
        let planned = v1::StagePlanned {
            stage: stage.name.to_string(),
            tasks: known,
            step_tasks,
            already_committed: step_tasks - new.min(step_tasks),
        };
        core.tell(&self.run, v1::event::What::StagePlanned(planned), now);
    }
}

fn new_task(stage: &Stage, device: Option<&DeviceKind>, task: &Task) -> NewTask {
    let settings = stage.kind.settings();
    let part = task.work.part();
    NewTask {
        key: Key {
            run: task.run.clone(),
            stage: stage.name.clone(),
            shard: task.shard.clone(),
        },
        spec: Spec {
            role: settings.role(),
            world_size: settings.world_size(),
            base: part.map(|part| part.pixels_file().digest),
            device: device.cloned(),
            may_twin: part.is_some(),
        },
        task_json: serde_json::to_string(task).expect("tasks are plain data with text keys"),
    }
}

/// Adopted overlays, aligned with the base files of this run: the rows are equal, as the recipe
/// says, but the files need not be (they hold times).
pub(in crate::scheduler) fn rebased(work: &Work, mut outputs: Outputs) -> Outputs {
    let overlays = outputs.files.iter_mut().filter(|file| file.base.is_some());
    for (overlay, part) in overlays.zip(work.overlaid()) {
        overlay.base = Some(part.base.digest);
    }
    outputs
}
