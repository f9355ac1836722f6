//! The end of a stage: its version is published, or its model named.

use std::collections::{BTreeMap, BTreeSet};

use capstan_dataset::versions;
use capstan_plan::commit::{OutputRef, StageOutput};
use capstan_plan::expand::{Done, Given};
use capstan_plan::id::ShardId;
use capstan_plan::stage::Stage;
use capstan_proto::v1;
use capstan_runtime::fault;

use super::{Driver, Error};
use crate::scheduler::core::Core;

/// What is shown of a stage that is done.
struct Shown<'a> {
    stage: &'a Stage,
    committed: u64,
    adopted: u64,
    /// With what is said of each.
    missing: BTreeMap<ShardId, String>,
    output: OutputRef,
    now_unix_ms: i64,
}

impl Driver {
    /// Publishes what a stage gave.
    pub(super) async fn finish(&self, stage: &Stage, done: Done) -> Result<StageOutput, Error> {
        let progress = &self.stages[&stage.name];
        let missing = done.missing.into_iter().map(|shard| {
            let said = progress.missing.get(&shard);
            let said = said.map_or_else(String::new, |given_up| given_up.said.clone());
            (shard, said)
        });
        let missing: BTreeMap<ShardId, String> = missing.collect();
        fault::point("coordinator.before_publish");
        let output = match done.given {
            Given::Dataset {
                dataset,
                derived_from,
                parts,
            } => {
                let new = versions::NewVersion {
                    dataset,
                    run: self.run.clone(),
                    stage: stage.name.clone(),
                    recipes: done.recipes,
                    derived_from,
                    statistics: done.statistics,
                    missing: missing.keys().cloned().collect(),
                    parts: parts.clone(),
                };
                let version = versions::publish(&self.inner.store, new).await?;
                StageOutput::Dataset { version, parts }
            }
            Given::Model(digest) => StageOutput::Model { digest },
            Given::Figures => StageOutput::Figures,
        };
        fault::point("coordinator.after_publish");
        let shown = Shown {
            stage,
            committed: progress.commits.len() as u64,
            adopted: progress.already,
            missing,
            output: output.reference(),
            now_unix_ms: self.inner.clock.unix_ms(),
        };
        self.inner.change(|core| self.show(core, shown)).await?;
        Ok(output)
    }

    fn show(&self, core: &mut Core, shown: Shown<'_>) {
        let (stage, now) = (&shown.stage.name, shown.now_unix_ms);
        // Tried again at the last moment: the version says already that it is missing.
        core.machine.forget_step(&self.run, stage, &BTreeSet::new());
        let Some(view) = core.stage_mut(&self.run, stage) else {
            return;
        };
        view.tasks = shown.committed + shown.missing.len() as u64;
        view.committed = shown.committed;
        view.adopted = shown.adopted;
        view.leased.clear();
        view.progress.clear();
        let mut before = std::mem::take(&mut view.quarantined);
        for (shard, said) in shown.missing {
            let said = before.remove(&shard).unwrap_or(said);
            view.quarantined.insert(shard, said);
        }
        // A driver that begins again comes by stages that were done before.
        let was_done =
            std::mem::replace(&mut view.state, v1::StageState::Done) == v1::StageState::Done;
        if was_done {
            view.output = Some(shown.output);
            return;
        }
        if view.started_unix_ms == 0 {
            view.started_unix_ms = now;
        }
        view.ended_unix_ms = now;
        let elapsed = now - view.started_unix_ms;
        let done = v1::StageDone {
            stage: stage.to_string(),
            output: Some((&shown.output).into()),
            elapsed_ms: u64::try_from(elapsed).unwrap_or(0),
        };
        view.output = Some(shown.output);
        tracing::info!(run = %self.run, %stage, elapsed_ms = elapsed, "stage done");
        core.tell(&self.run, v1::event::What::StageDone(done), now);
    }
}
