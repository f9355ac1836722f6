//! The end of a step: writes the lists of files that later steps read.

use std::collections::BTreeMap;

use capstan_dataset::lists::{self, FileWriter, PAGE};
use capstan_plan::expand::{self, Step, Tasks};
use capstan_plan::stage::Stage;

use super::window::Commits;
use super::{Driver, Error, database_error};
use crate::scheduler::core::Core;

impl Driver {
    /// Ends the current step of a stage. Does nothing if a shard of it is retried meanwhile.
    pub(super) async fn close(&mut self, stage: &Stage) -> Result<(), Error> {
        let forget = |core: &mut Core| {
            let is_over = !core.is_retried(&self.run, &stage.name);
            if is_over {
                core.machine.forget_step(&self.run, &stage.name);
            }
            is_over
        };
        // After this, all commits of the step are in the database.
        if !self.inner.change(forget).await? {
            return Ok(());
        }
        let Some(window) = self.window(stage) else {
            return Ok(());
        };
        let tasks = window.tasks.clone();
        let step = self.collect(stage, &tasks).await?;
        let progress = self.stages.entry(stage.name.clone()).or_default();
        progress.window = None;
        progress.early.clear();
        progress.steps.push(step);
        progress.tasks.push(tasks);
        Ok(())
    }

    /// Collects what later steps read of a step.
    async fn collect(&self, stage: &Stage, tasks: &Tasks) -> Result<Step, Error> {
        let mut step = Step::default();
        if let Some(one) = tasks.one() {
            let commits = self.page_of_commits(stage, tasks, 0).await?;
            let Some(commit) = commits.into_values().next() else {
                let (stage, shard) = (stage.name.clone(), one.shard);
                return Err(expand::Error::Missing { stage, shard }.into());
            };
            step.outputs = Some(commit.outputs);
        }
        if tasks.lists.is_empty() {
            return Ok(step);
        }
        let store = &self.inner.store;
        let writers = tasks.lists.iter();
        let mut writers: BTreeMap<_, _> = writers
            .map(|kind| (*kind, FileWriter::new(store)))
            .collect();
        for page in 0..tasks.len().div_ceil(PAGE) {
            for commit in self
                .page_of_commits(stage, tasks, page)
                .await?
                .into_values()
            {
                for page in 0..lists::output_pages(&commit.outputs) {
                    for file in lists::output_page(store, &commit.outputs, page).await? {
                        if let Some(writer) = writers.get_mut(&file.kind) {
                            writer.push(file).await?;
                        }
                    }
                }
            }
        }
        for (kind, writer) in writers {
            step.lists.insert(kind, writer.finish().await?);
        }
        Ok(step)
    }

    /// Commits of a page of a step.
    pub(super) async fn page_of_commits(
        &self,
        stage: &Stage,
        tasks: &Tasks,
        page: u64,
    ) -> Result<Commits, Error> {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(tasks.len()));
        if from >= to {
            return Ok(Commits::new());
        }
        let (first, last) = (tasks.shard(from), tasks.shard(to - 1));
        let shards = self.shards(stage, &first, &last);
        self.inner
            .database
            .commits(shards)
            .await
            .map_err(database_error)
    }
}
