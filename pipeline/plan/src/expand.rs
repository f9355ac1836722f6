//! What a stage has to do next: its tasks, step by step, as a pure function of what is committed.
//!
//! ```text
//! expand(stage, inputs, commits so far) ─► Tasks(the current step) ─► committed ─► expand again
//!                                      └─► Done(what the stage gave)
//! ```
//!
//! A coordinator that restarts calls [`expand`] again and continues where the commits end. This file
//! and `done.rs` are the machinery that all kinds share; what a kind's tasks are stands in
//! `stage/<kind>.rs`.

mod done;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::commit::{Commit, FileKind, Part, StageOutput, VersionRef};
use crate::id::{DatasetName, DeviceKind, ModelDigest, RecipeHash, RunId, ShardId, StageName};
use crate::recipe::Scope;
use crate::stage::{Source, Stage, Work};
use crate::task::{Data, Task};

/// A stage and everything that decides what it does next.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// The run.
    pub run: &'a RunId,
    /// Seed of the run.
    pub seed: u64,
    /// What the stage's models compute on, where it is known.
    pub device: Option<&'a DeviceKind>,
    /// What the stages that it reads gave, by name.
    pub inputs: &'a BTreeMap<StageName, StageOutput>,
    /// Commits of the stage so far, in any order.
    pub commits: &'a [Commit],
    /// Shards that were quarantined: they are left out.
    pub missing: &'a BTreeSet<ShardId>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Expansion {
    /// Every task of the current step, committed and quarantined ones among them.
    Tasks(Vec<Task>),
    /// Nothing: the stage is done.
    Done(Done),
}

/// What a finished stage gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// For later stages; a dataset gets its version number when it is published.
    pub given: Given,
    /// Counts by name: sums over the commits, `rejected` and `rejected.<code>`,
    /// `rows` for a dataset.
    pub statistics: BTreeMap<String, u64>,
    /// Recipes of its commits, in the order of the tasks.
    pub recipes: Vec<RecipeHash>,
    /// Shards that it was done without, in the order of the tasks.
    pub missing: Vec<ShardId>,
}

/// A [`StageOutput`] without a version number.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// A dataset to be published.
    Dataset {
        /// Its name.
        dataset: DatasetName,
        /// The version that overlays were added to.
        derived_from: Option<VersionRef>,
        /// Its shards, in order.
        parts: Vec<Part>,
    },
    /// A model or tokenizer folder.
    Model(ModelDigest),
    /// Figures.
    Figures,
}

/// Why a stage cannot be expanded. Each is final: asking again gives the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An input is not there, or is not what the stage reads.
    #[error("stage {stage} reads {expected} of stage {input}, which gave none")]
    Input {
        /// The stage.
        stage: StageName,
        /// The stage that it reads.
        input: StageName,
        /// What it needs.
        expected: &'static str,
    },
    /// A commit does not hold what its task makes.
    #[error("commit {stage}/{shard} {reason}")]
    Commit {
        /// The stage.
        stage: StageName,
        /// The shard.
        shard: ShardId,
        /// What it lacks.
        reason: String,
    },
    /// A task that everything after it needs was quarantined.
    #[error("stage {stage} cannot go on without shard {shard}")]
    Missing {
        /// The stage.
        stage: StageName,
        /// The shard.
        shard: ShardId,
    },
}

/// The shard of a task that is alone in its step and its stage.
pub const ALL: &str = "all";

/// What `request.stage` has to do next.
///
/// # Errors
/// [`Error`]: an input of the wrong kind, or a commit that does not hold what its task makes.
pub fn expand(request: Request<'_>) -> Result<Expansion, Error> {
    let step = Step::new(request);
    request.stage.kind.settings().expand(&step)
}

impl Given {
    /// The first version of a dataset.
    pub(crate) fn new_dataset(dataset: &DatasetName, parts: Vec<Part>) -> Self {
        Self::Dataset {
            dataset: dataset.clone(),
            derived_from: None,
            parts,
        }
    }

    /// A version with more overlays than the version it is derived from.
    pub(crate) fn next_version(version: &VersionRef, parts: Vec<Part>) -> Self {
        Self::Dataset {
            dataset: version.dataset.clone(),
            derived_from: Some(version.clone()),
            parts,
        }
    }
}

impl Done {
    /// - `tasks`: every task of the stage, in order.
    pub(crate) fn new(step: &Step<'_>, given: Given, tasks: &[Task]) -> Self {
        let commits = tasks.iter().filter_map(|task| step.commit(&task.shard));
        let missing = tasks
            .iter()
            .filter(|task| step.commit(&task.shard).is_none());
        Self {
            statistics: done::statistics(step, &given),
            given,
            recipes: commits.map(|commit| commit.recipe).collect(),
            missing: missing.map(|task| task.shard.clone()).collect(),
        }
    }
}

/// Shards that later steps of the same stage were built without, so that they are not made any
/// more.
///
/// # Errors
/// Those of [`expand`].
pub fn left_out(request: Request<'_>) -> Result<Vec<ShardId>, Error> {
    request.stage.kind.settings().left_out(&Step::new(request))
}

/// A request with its commits by shard: what a kind of stage is expanded from.
#[derive(Debug)]
pub struct Step<'a> {
    request: Request<'a>,
    commits: BTreeMap<&'a ShardId, &'a Commit>,
}

impl<'a> Step<'a> {
    fn new(request: Request<'a>) -> Self {
        let commits = request
            .commits
            .iter()
            .map(|commit| (&commit.shard, commit))
            .collect();
        Self { request, commits }
    }

    /// A task of the stage with its recipe.
    pub(crate) fn task(&self, shard: impl Into<ShardId>, work: impl Into<Work>) -> Task {
        let Request {
            stage,
            run,
            seed,
            device,
            ..
        } = self.request;
        let work = work.into();
        let scope = Scope { run, seed, device };
        Task {
            run: run.clone(),
            stage: stage.name.clone(),
            shard: shard.into(),
            recipe: work.recipe(&scope),
            seed,
            work,
        }
    }

    /// The commit of this shard, where there is one.
    pub(crate) fn commit(&self, shard: &ShardId) -> Option<&'a Commit> {
        self.commits.get(shard).copied()
    }

    /// The commits of these tasks, in their order; tasks without one are left out.
    pub(crate) fn commits_of(&self, tasks: &[Task]) -> impl Iterator<Item = &'a Commit> {
        tasks.iter().filter_map(|task| self.commit(&task.shard))
    }

    /// The commit of a task that everything after it needs.
    pub(crate) fn needed(&self, shard: &ShardId) -> Result<Option<&'a Commit>, Error> {
        if self.commit(shard).is_none() && self.request.missing.contains(shard) {
            let stage = self.request.stage.name.clone();
            return Err(Error::Missing {
                stage,
                shard: shard.clone(),
            });
        }
        Ok(self.commit(shard))
    }

    /// Whether each of these tasks is committed or given up.
    pub(crate) fn settled(&self, tasks: &[Task]) -> bool {
        tasks.iter().all(|task| {
            self.commit(&task.shard).is_some() || self.request.missing.contains(&task.shard)
        })
    }

    /// A stage of one task.
    ///
    /// - `given`: reads from the commit what the stage gave.
    pub(crate) fn single(
        &self,
        work: impl Into<Work>,
        given: impl FnOnce(&Commit) -> Result<Given, Error>,
    ) -> Result<Expansion, Error> {
        let task = self.task(ALL, work);
        match self.needed(&task.shard)? {
            None => Ok(Expansion::Tasks(vec![task])),
            Some(commit) => {
                let given = given(commit)?;
                Ok(Expansion::Done(Done::new(self, given, &[task])))
            }
        }
    }

    /// A stage of one task per shard, each adding an overlay.
    pub(crate) fn per_shard<W: Into<Work>>(
        &self,
        from: &StageName,
        overlay: FileKind,
        work: impl Fn(Part) -> W,
    ) -> Result<Expansion, Error> {
        let (version, parts) = self.dataset(from)?;
        let tasks: Vec<Task> = parts
            .iter()
            .enumerate()
            .map(|(ordinal, part)| self.task(ordinal_name(ordinal), work(part.clone())))
            .collect();
        if !self.settled(&tasks) {
            return Ok(Expansion::Tasks(tasks));
        }
        self.overlaid(version, parts, overlay, &tasks)
    }

    /// The dataset version that this stage gave, with its shards.
    pub(crate) fn dataset(&self, input: &StageName) -> Result<(&'a VersionRef, &'a [Part]), Error> {
        match self.request.inputs.get(input) {
            Some(StageOutput::Dataset { version, parts }) => Ok((version, parts)),
            _ => Err(self.input(input, "a dataset")),
        }
    }

    /// The model or vocabulary that this stage gave.
    pub(crate) fn model(&self, input: &StageName) -> Result<ModelDigest, Error> {
        match self.request.inputs.get(input) {
            Some(StageOutput::Model { digest }) => Ok(*digest),
            _ => Err(self.input(input, "a model")),
        }
    }

    /// The dataset versions of these sources, in order.
    pub(crate) fn data(&self, sources: &[Source]) -> Result<Vec<Data>, Error> {
        let read = |source: &Source| {
            let (version, parts) = self.dataset(&source.from)?;
            Ok(Data {
                version: version.clone(),
                parts: parts.to_vec(),
                web: source.web,
                synthetic: source.synthetic,
            })
        };
        sources.iter().map(read).collect()
    }

    fn input(&self, input: &StageName, expected: &'static str) -> Error {
        let stage = self.request.stage.name.clone();
        Error::Input {
            stage,
            input: input.clone(),
            expected,
        }
    }

    /// The error of a commit that does not hold what its task makes.
    pub(crate) fn damaged(&self, shard: &ShardId, reason: impl Into<String>) -> Error {
        let stage = self.request.stage.name.clone();
        Error::Commit {
            stage,
            shard: shard.clone(),
            reason: reason.into(),
        }
    }
}

/// The shard of a part: its ordinal in the version.
pub(crate) fn ordinal_name(ordinal: usize) -> String {
    ShardId::ordinal(ordinal).0
}
