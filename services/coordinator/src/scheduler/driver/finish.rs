//! The end of a stage: publishes its version.

use capstan_dataset::lists::{self, PAGE, VersionWriter};
use capstan_dataset::versions::{self, Origin, Pages};
use capstan_plan::commit::{FileKind, OutputRef, Part, Shards, StageOutput, Summary};
use capstan_plan::expand::outcome::{CommitOf, Sums};
use capstan_plan::expand::{Outcome, Tasks};
use capstan_plan::id::{DatasetName, ShardId};
use capstan_plan::stage::Stage;
use capstan_proto::v1;
use capstan_runtime::fault;

use super::{Driver, Error};
use crate::scheduler::core::Core;
use crate::scheduler::plan::dataset_of;

/// Changes of the view of a stage that is done.
struct Shown<'a> {
    stage: &'a Stage,
    /// Shards that its version does not contain.
    missing: Vec<ShardId>,
    output: OutputRef,
    now_unix_ms: i64,
}

/// A version that is being written.
struct Writing<'a> {
    lists: VersionWriter<'a>,
    sums: Sums,
}

impl Writing<'_> {
    async fn shard(&mut self, part: &Part) -> Result<(), Error> {
        self.sums.add_shard(part);
        Ok(self.lists.shard(part).await?)
    }
}

impl Driver {
    /// Publishes the output of a stage and marks it as done.
    pub(super) async fn finish(
        &self,
        stage: &Stage,
        outcome: Outcome,
    ) -> Result<StageOutput, Error> {
        fault::point("coordinator.before_publish");
        let output = match outcome {
            Outcome::Model(digest) => StageOutput::Model { digest },
            Outcome::Figures => StageOutput::Figures,
            outcome => StageOutput::Dataset(self.publish(stage, outcome).await?),
        };
        fault::point("coordinator.after_publish");
        self.show_done(stage, Vec::new(), &output).await?;
        Ok(output)
    }

    /// The version that the stage has published, if any. Marks the stage as done.
    pub(super) async fn published(&self, stage: &Stage) -> Result<Option<StageOutput>, Error> {
        let store = &self.inner.store;
        let Some(dataset) = dataset_of(&stage.kind, &self.outputs) else {
            return Ok(None);
        };
        let version = versions::published(store, dataset, &self.run, &stage.name).await?;
        let Some(version) = version else {
            return Ok(None);
        };
        let output = StageOutput::Dataset(versions::shards(store, &version).await?);
        let is_shown = |view: &crate::view::StageView| view.state == v1::StageState::Done;
        if self.with_view(stage, is_shown)? == Some(true) {
            return Ok(Some(output));
        }
        let missing = versions::tasks(store, &version).await?.missing;
        self.show_done(stage, missing, &output).await?;
        Ok(Some(output))
    }

    async fn show_done(
        &self,
        stage: &Stage,
        missing: Vec<ShardId>,
        output: &StageOutput,
    ) -> Result<(), Error> {
        let shown = Shown {
            stage,
            missing,
            output: output.reference(),
            now_unix_ms: self.inner.clock.unix_ms(),
        };
        self.inner.change(|core| self.show(core, shown)).await?;
        Ok(())
    }

    /// Writes the lists of a version page by page from the commits of all steps, and publishes it.
    async fn publish(&self, stage: &Stage, outcome: Outcome) -> Result<Shards, Error> {
        let store = &self.inner.store;
        let mut writing = Writing {
            lists: VersionWriter::new(store),
            sums: Sums::default(),
        };
        let (dataset, derived_from) = match &outcome {
            Outcome::Overlays { shards, .. } | Outcome::OverlaysOfOne { shards, .. } => {
                (shards.version.dataset.clone(), Some(shards.version.clone()))
            }
            Outcome::NewDataset(dataset) => (dataset.clone(), None),
            // `finish` publishes no version for these.
            Outcome::Model(_) | Outcome::Figures => (DatasetName(String::new()), None),
        };
        let steps = &self.stages[&stage.name].tasks;
        for (place, tasks) in steps.iter().enumerate() {
            let gives = (place + 1 == steps.len()).then_some(&outcome);
            self.write_step(stage, tasks, gives, &mut writing).await?;
        }
        let origin = Origin {
            dataset,
            run: self.run.clone(),
            stage: stage.name.clone(),
            derived_from,
            statistics: writing.sums.finish(true),
        };
        let lists = writing.lists.finish().await?;
        Ok(versions::publish_lists(store, origin, &lists).await?)
    }

    /// Adds the recipes and missing shards of a step.
    ///
    /// - `gives`: the outcome if this is the last step, whose shards are added too.
    async fn write_step(
        &self,
        stage: &Stage,
        tasks: &Tasks,
        gives: Option<&Outcome>,
        writing: &mut Writing<'_>,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        let read = match gives {
            Some(Outcome::Overlays { shards, .. }) => {
                Some(Pages::open(store, &shards.version).await?)
            }
            _ => None,
        };
        for page in 0..tasks.len().div_ceil(PAGE) {
            let mut commits = self.page_of_commits(stage, tasks, page).await?;
            let mut parts = match &read {
                Some(pages) => pages.read(store, page).await?,
                None => Vec::new(),
            }
            .into_iter();
            for ordinal in page * PAGE..((page + 1) * PAGE).min(tasks.len()) {
                let (shard, part) = (tasks.shard(ordinal), parts.next());
                let Some(commit) = commits.remove(&shard) else {
                    writing.lists.missing(shard).await?;
                    continue;
                };
                writing.sums.add(&commit.outputs);
                writing.lists.recipe(commit.recipe).await?;
                if let Some(outcome) = gives {
                    let of = CommitOf {
                        stage: &stage.name,
                        shard: &shard,
                    };
                    self.write_shards(of, outcome, part, &commit, writing)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Adds the shards of one commit of the last step.
    async fn write_shards(
        &self,
        of: CommitOf<'_>,
        outcome: &Outcome,
        part: Option<Part>,
        commit: &Summary,
        writing: &mut Writing<'_>,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        match (outcome, part) {
            (Outcome::NewDataset(_), _) => {
                let files = lists::output_files(store, &commit.outputs).await?;
                for part in of.bases(&files)? {
                    writing.shard(&part).await?;
                }
            }
            (Outcome::Overlays { kind, .. }, Some(part)) => {
                let part = of.overlaid(part, *kind, &commit.outputs.files)?;
                writing.shard(&part).await?;
            }
            (Outcome::OverlaysOfOne { shards, kind }, _) => {
                self.write_overlays(of, shards, *kind, commit, writing)
                    .await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the shards of a version, each with its overlay. One commit names the overlays in order.
    async fn write_overlays(
        &self,
        of: CommitOf<'_>,
        shards: &Shards,
        kind: FileKind,
        commit: &Summary,
        writing: &mut Writing<'_>,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        let pages = Pages::open(store, &shards.version).await?;
        let (mut found, mut number) = (0, 0);
        let mut parts = pages.read(store, 0).await?.into_iter();
        for page in 0..lists::output_pages(&commit.outputs) {
            let files = lists::output_page(store, &commit.outputs, page).await?;
            for overlay in files.iter().filter(|file| file.kind == kind) {
                found += 1;
                if parts.len() == 0 {
                    number += 1;
                    parts = pages.read(store, number).await?.into_iter();
                }
                if let Some(part) = parts.next() {
                    writing.shard(&of.with_overlay(part, overlay)?).await?;
                }
            }
        }
        match found == shards.count {
            true => Ok(()),
            false => Err(of.overlay_count(found, shards.count).into()),
        }
    }

    fn show(&self, core: &mut Core, shown: Shown<'_>) {
        let (stage, now) = (&shown.stage.name, shown.now_unix_ms);
        let reason = || "its version is published without it".to_owned();
        let missing = shown.missing.into_iter().map(|shard| (shard, reason()));
        core.add_given_up(&self.run, stage, missing);
        let given_up = core.machine.count_given_up(&self.run, stage) as u64;
        let Some(view) = core.stage_mut(&self.run, stage) else {
            return;
        };
        view.tasks = view.committed + given_up;
        view.leased.clear();
        view.progress.clear();
        // A driver that restarts also passes stages that are done.
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
        core.queue_event(&self.run, v1::event::What::StageDone(done), now);
    }
}
