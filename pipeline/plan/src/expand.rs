//! What a stage does next: its tasks, step by step, as a pure function of the steps that are over.
//!
//! ```text
//! next(stage, inputs, steps so far) ─► Tasks(a step) ─► all settled ─► a list of files ─► next again
//!                                  └─► Done(what the stage gave)
//! ```
//!
//! A step is one task, or a task for each slice, shard or file of a list that an earlier step or
//! stage made. Lists are named here and never held, so that a step of a million tasks costs as much
//! as a step of one: whoever walks through a stage reads lists page by page, makes the tasks of a
//! page, and at the end of a step collects the files of its commits into lists again. [`memory`] does
//! so for stages that fit in memory; the coordinator does so in the store.
//!
//! What the tasks of a kind are stands in `stage/<kind>.rs`; `outcome.rs` reads what a finished stage
//! gave from its commits.

pub mod memory;
pub mod outcome;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::commit::{File, FileKind, FileList, Outputs, Part, Shards, StageOutput};
use crate::id::{
    DatasetName, DeviceKind, Digest, ModelDigest, RecipeHash, RunId, ShardId, StageName,
};
use crate::recipe::Recipes;
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
    /// What the stage's models compute on. `None` where it is not known yet: recipes of a stage that
    /// computes must not be looked up then.
    pub device: Option<&'a DeviceKind>,
    /// What the stages that it reads gave, by name.
    pub inputs: &'a BTreeMap<StageName, StageOutput>,
    /// The steps that are over, in order.
    pub steps: &'a [Step],
}

/// A step that is over.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// What the task wrote, where the step was one task.
    pub outputs: Option<Outputs>,
    /// Files of its commits in the order of the tasks, of the kinds that [`Tasks::lists`] names.
    pub lists: BTreeMap<FileKind, FileList>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// A step.
    Tasks(Tasks),
    /// Nothing: the stage is done.
    Done(Outcome),
}

/// Where to find what a finished stage gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The first version of a dataset: the base files of the last step's commits.
    NewDataset(DatasetName),
    /// Another version: these shards, each with one overlay of its commit of the last step. Shards
    /// without a commit are left out.
    Overlays {
        /// The shards that were read.
        shards: Shards,
        /// The kind of overlay.
        kind: FileKind,
    },
    /// Another version: these shards, each with one overlay; the one commit of the last step names
    /// an overlay for each, in order.
    OverlaysOfOne {
        /// The shards that were read.
        shards: Shards,
        /// The kind of overlay.
        kind: FileKind,
    },
    /// A model or tokenizer folder.
    Model(ModelDigest),
    /// Figures.
    Figures,
}

/// Work and recipe of a task that is not named yet.
type Made = (Work, RecipeHash);
/// Makes a task of an item.
type Make<T> = Box<dyn Fn(T) -> Made + Send + Sync>;

/// What the tasks of a step are made of.
pub enum Items {
    /// One task, which everything after it needs.
    One(Box<Made>),
    /// A task per slice of one source.
    Slices(u64, Make<usize>),
    /// A task per shard of a dataset version.
    Shards(Shards, Make<Part>),
    /// A task per file of a list.
    Files(FileList, Make<File>),
}

/// The tasks of a step.
#[derive(Debug)]
pub struct Tasks {
    /// What they are made of.
    pub items: Items,
    /// The kinds of files of which later steps read a list.
    pub lists: &'static [FileKind],
    namer: Namer,
}

/// Why a stage cannot go on. Each is final: asking again gives the same.
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

/// What the stage does next.
///
/// # Errors
/// [`Error`]: an input of the wrong kind, or a commit that does not hold what its task makes.
pub fn next(request: Request<'_>) -> Result<Next, Error> {
    request.stage.kind.settings().next(&request)
}

/// Names the tasks of a step: `<prefix><ordinal>`, or the prefix alone where there is one task.
#[derive(Debug, Clone)]
struct Namer {
    run: RunId,
    stage: StageName,
    seed: u64,
    settings: Digest,
    prefix: String,
}

impl Namer {
    fn task(&self, shard: ShardId, (work, recipe): Made) -> Task {
        Task {
            run: self.run.clone(),
            stage: self.stage.clone(),
            shard,
            recipe,
            seed: self.seed,
            settings: self.settings,
            work,
        }
    }
}

impl Tasks {
    /// How many there are.
    pub fn len(&self) -> u64 {
        match &self.items {
            Items::One(_) => 1,
            Items::Slices(count, _) => *count,
            Items::Shards(shards, _) => shards.count,
            Items::Files(files, _) => files.count,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one task of the step, which everything after it needs; `None` for a step of a list.
    pub fn one(&self) -> Option<Task> {
        match &self.items {
            Items::One(made) => Some(self.namer.task(self.shard(0), (**made).clone())),
            _ => None,
        }
    }

    /// The shard of the task of this ordinal. Shards sort as their ordinals do.
    pub fn shard(&self, ordinal: u64) -> ShardId {
        let prefix = &self.namer.prefix;
        match &self.items {
            Items::One(_) => ShardId(prefix.clone()),
            _ => ShardId(format!("{prefix}{}", ShardId::ordinal(ordinal as usize))),
        }
    }

    /// The task of an item of this ordinal.
    pub fn task<T>(&self, ordinal: u64, make: &Make<T>, item: T) -> Task {
        self.namer.task(self.shard(ordinal), make(item))
    }
}

impl std::fmt::Debug for Items {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(made) => f.debug_tuple("One").field(made).finish(),
            Self::Slices(count, _) => f.debug_tuple("Slices").field(count).finish(),
            Self::Shards(shards, _) => f.debug_tuple("Shards").field(shards).finish(),
            Self::Files(files, _) => f.debug_tuple("Files").field(files).finish(),
        }
    }
}

impl<'a> Request<'a> {
    /// A step of the tasks of `items`.
    ///
    /// - `prefix`: of the names of the shards; the whole name where there is one task.
    pub(crate) fn step(
        &self,
        prefix: impl Into<String>,
        items: Items,
        lists: &'static [FileKind],
    ) -> Tasks {
        let namer = Namer {
            run: self.run.clone(),
            stage: self.stage.name.clone(),
            seed: self.seed,
            settings: self.stage.kind.digest(),
            prefix: prefix.into(),
        };
        Tasks {
            items,
            lists,
            namer,
        }
    }

    /// A stage of one task.
    ///
    /// - `outcome`: reads from its outputs what the stage gave.
    pub(crate) fn single(
        &self,
        work: impl Into<Work>,
        recipe: RecipeHash,
        outcome: impl FnOnce(&Outputs) -> Result<Outcome, Error>,
    ) -> Result<Next, Error> {
        match self.steps.first() {
            None => Ok(Next::Tasks(self.one(ALL, work, recipe, &[]))),
            Some(step) => {
                outcome(step.outputs.as_ref().unwrap_or(&Outputs::default())).map(Next::Done)
            }
        }
    }

    /// A step of one task.
    pub(crate) fn one(
        &self,
        shard: impl Into<String>,
        work: impl Into<Work>,
        recipe: RecipeHash,
        lists: &'static [FileKind],
    ) -> Tasks {
        self.step(shard, Items::One(Box::new((work.into(), recipe))), lists)
    }

    /// A stage of one task per shard, each adding an overlay.
    ///
    /// - `recipes`, `input`: the recipe of a task is that of the one input digest of its shard.
    pub(crate) fn per_shard<W: Into<Work>>(
        &self,
        from: &StageName,
        overlay: FileKind,
        recipes: Recipes,
        input: fn(&Part) -> Digest,
        work: impl Fn(Part) -> W + Send + Sync + 'static,
    ) -> Result<Next, Error> {
        let shards = self.dataset(from)?.clone();
        if !self.steps.is_empty() {
            let kind = overlay;
            return Ok(Next::Done(Outcome::Overlays { shards, kind }));
        }
        let computes = self.stage.kind.settings().computes();
        let device = self.device.filter(|_| computes).cloned();
        let make = move |part: Part| {
            let recipe = recipes.hash(&[input(&part)], device.as_ref());
            (work(part).into(), recipe)
        };
        let items = Items::Shards(shards, Box::new(make));
        Ok(Next::Tasks(self.step("", items, &[])))
    }

    /// The dataset version that this stage gave.
    pub(crate) fn dataset(&self, input: &StageName) -> Result<&'a Shards, Error> {
        match self.inputs.get(input) {
            Some(StageOutput::Dataset(shards)) => Ok(shards),
            _ => Err(self.input(input, "a dataset")),
        }
    }

    /// The model or vocabulary that this stage gave.
    pub(crate) fn model(&self, input: &StageName) -> Result<ModelDigest, Error> {
        match self.inputs.get(input) {
            Some(StageOutput::Model { digest }) => Ok(*digest),
            _ => Err(self.input(input, "a model")),
        }
    }

    /// The dataset versions of these sources, in order.
    pub(crate) fn data(&self, sources: &[Source]) -> Result<Vec<Data>, Error> {
        let read = |source: &Source| {
            Ok(Data {
                shards: self.dataset(&source.from)?.clone(),
                web: source.web,
                synthetic: source.synthetic,
            })
        };
        sources.iter().map(read).collect()
    }

    /// The model or vocabulary of a stage of one task.
    pub(crate) fn given_model(&self, outputs: &Outputs) -> Result<Outcome, Error> {
        match outputs.model {
            Some(digest) => Ok(Outcome::Model(digest)),
            None => Err(self.damaged(&ALL.into(), "names no model")),
        }
    }

    fn input(&self, input: &StageName, expected: &'static str) -> Error {
        Error::Input {
            stage: self.stage.name.clone(),
            input: input.clone(),
            expected,
        }
    }

    /// The error of a commit that does not hold what its task makes.
    pub(crate) fn damaged(&self, shard: &ShardId, reason: impl Into<String>) -> Error {
        Error::Commit {
            stage: self.stage.name.clone(),
            shard: shard.clone(),
            reason: reason.into(),
        }
    }
}
