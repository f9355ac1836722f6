//! Stages that fit in memory: commits and lists are held as they are.
//!
//! For plans of runs that are not submitted yet, and for tests. The coordinator walks through the
//! stages of a run in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::outcome::{CommitOf, Sums};
use super::{Error, Items, Next, Outcome, Request, Step, Tasks, next};
use crate::commit::{File, FileList, FilesHasher, Part, Shards, ShardsHasher, Summary, VersionRef};
use crate::id::{DatasetName, Digest, ModelDigest, RecipeHash, ShardId};
use crate::task::Task;

/// What comes next, with every task.
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
    /// Counts by name: sums over the commits, `rejected` and `rejected.<code>`, `rows` for a dataset.
    pub statistics: BTreeMap<String, u64>,
    /// Recipes of its commits, in the order of the tasks.
    pub recipes: Vec<RecipeHash>,
    /// Shards that it was done without, in the order of the tasks.
    pub missing: Vec<ShardId>,
}

/// What a finished stage gave, with every shard.
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

/// The lists that shards and files are named by.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    parts: HashMap<(VersionRef, Digest), Vec<Part>>,
    files: HashMap<(u64, Digest), Vec<File>>,
}

impl Lists {
    /// Holds the shards of a version.
    pub fn add_shards(&mut self, version: VersionRef, parts: Vec<Part>) -> Shards {
        let mut hasher = ShardsHasher::default();
        parts.iter().for_each(|part| hasher.push(part));
        let shards = hasher.finish(version);
        self.parts.insert(key(&shards), parts);
        shards
    }

    /// The shards of a version that is held; none of another one.
    pub fn shards(&self, shards: &Shards) -> &[Part] {
        self.parts.get(&key(shards)).map_or(&[], Vec::as_slice)
    }

    fn add_files(&mut self, files: Vec<File>) -> FileList {
        let mut hasher = FilesHasher::default();
        files.iter().for_each(|file| hasher.push(file));
        let list = hasher.finish(Vec::new());
        self.files.insert((list.count, list.rows), files);
        list
    }

    /// The files of a list that is held; none of another one.
    pub fn files(&self, list: &FileList) -> &[File] {
        let files = self.files.get(&(list.count, list.rows));
        files.map_or(&[], Vec::as_slice)
    }

    /// Every task of a step, in order.
    fn tasks(&self, tasks: &Tasks) -> Vec<Task> {
        match &tasks.items {
            Items::One(_) => tasks.one().into_iter().collect(),
            Items::Slices(count, make) => (0..*count)
                .map(|ordinal| tasks.task(ordinal, make, ordinal as usize))
                .collect(),
            Items::Shards(shards, make) => (0..)
                .zip(self.shards(shards))
                .map(|(ordinal, part)| tasks.task(ordinal, make, part.clone()))
                .collect(),
            Items::Files(list, make) => (0..)
                .zip(self.files(list))
                .map(|(ordinal, file)| tasks.task(ordinal, make, file.clone()))
                .collect(),
        }
    }
}

fn key(shards: &Shards) -> (VersionRef, Digest) {
    (shards.version.clone(), shards.with_pixels)
}

/// Takes a stage as far as its commits go.
///
/// - `request`: its steps are not read.
/// - `missing`: shards that were quarantined: they are left out.
///
/// # Errors
/// [`Error`].
pub fn expand(
    request: Request<'_>,
    lists: &mut Lists,
    commits: &BTreeMap<ShardId, Summary>,
    missing: &BTreeSet<ShardId>,
) -> Result<Expansion, Error> {
    let stage = &request.stage.name;
    let mut steps: Vec<Step> = Vec::new();
    let mut all: Vec<Task> = Vec::new();
    let mut last = 0;
    loop {
        let request = Request {
            steps: &steps,
            ..request
        };
        let tasks = match next(request)? {
            Next::Tasks(tasks) => tasks,
            Next::Done(outcome) => {
                let (before, after) = all.split_at(last);
                let given = given(request, lists, commits, after, outcome)?;
                let tasks = before.iter().chain(after);
                return Ok(Expansion::Done(done(given, tasks, commits)));
            }
        };
        let made = lists.tasks(&tasks);
        let is_committed = |shard: &ShardId| commits.contains_key(shard);
        if let Some(one) = tasks.one()
            && !is_committed(&one.shard)
            && missing.contains(&one.shard)
        {
            let (stage, shard) = (stage.clone(), one.shard);
            return Err(Error::Missing { stage, shard });
        }
        let is_open = |task: &Task| !is_committed(&task.shard) && !missing.contains(&task.shard);
        // Once the next step was built without a shard, the stage goes on without it.
        let follower = made.first().and_then(|task| follower(request, &task.shard));
        let is_over = follower.is_some_and(|shard| is_committed(&shard));
        if !is_over && made.iter().any(is_open) {
            return Ok(Expansion::Tasks(made));
        }
        steps.push(step(lists, &tasks, &made, commits));
        last = all.len();
        all.extend(made);
    }
}

/// The task that is built on the step of this shard.
fn follower(request: Request<'_>, shard: &ShardId) -> Option<ShardId> {
    request.stage.kind.settings().follower(shard)
}

fn step(
    lists: &mut Lists,
    tasks: &Tasks,
    made: &[Task],
    commits: &BTreeMap<ShardId, Summary>,
) -> Step {
    let outputs = |task: &Task| commits.get(&task.shard).map(|commit| &commit.outputs);
    let list = |lists: &mut Lists, kind| {
        let files = made.iter().filter_map(outputs).flat_map(|o| &o.files);
        lists.add_files(files.filter(|file| file.kind == kind).cloned().collect())
    };
    let kinds = tasks.lists.iter();
    Step {
        lists: kinds.map(|kind| (*kind, list(lists, *kind))).collect(),
        outputs: tasks.one().and_then(|one| outputs(&one).cloned()),
    }
}

/// - `last`: the tasks of the last step.
fn given(
    request: Request<'_>,
    lists: &Lists,
    commits: &BTreeMap<ShardId, Summary>,
    last: &[Task],
    outcome: Outcome,
) -> Result<Given, Error> {
    let stage = &request.stage.name;
    let committed = |task: &'_ Task| commits.get(&task.shard).map(|commit| &commit.outputs.files);
    let next_version = |shards: &Shards, parts| Given::Dataset {
        dataset: shards.version.dataset.clone(),
        derived_from: Some(shards.version.clone()),
        parts,
    };
    match outcome {
        Outcome::Model(digest) => Ok(Given::Model(digest)),
        Outcome::Figures => Ok(Given::Figures),
        Outcome::NewDataset(dataset) => {
            let mut parts = Vec::new();
            for task in last {
                let shard = &task.shard;
                let of = CommitOf { stage, shard };
                parts.extend(of.bases(committed(task).map_or(&[], Vec::as_slice))?);
            }
            Ok(Given::Dataset {
                dataset,
                derived_from: None,
                parts,
            })
        }
        Outcome::Overlays { shards, kind } => {
            let mut parts = Vec::new();
            for (task, part) in last.iter().zip(lists.shards(&shards)) {
                let shard = &task.shard;
                if let Some(files) = committed(task) {
                    let of = CommitOf { stage, shard };
                    parts.push(of.overlaid(part.clone(), kind, files)?);
                }
            }
            Ok(next_version(&shards, parts))
        }
        Outcome::OverlaysOfOne { shards, kind } => {
            let files = last.iter().filter_map(committed).flatten();
            let overlays: Vec<&File> = files.filter(|file| file.kind == kind).collect();
            let shard = &last
                .first()
                .map_or(super::ALL.into(), |task| task.shard.clone());
            let of = CommitOf { stage, shard };
            if overlays.len() as u64 != shards.count {
                return Err(of.overlay_count(overlays.len() as u64, shards.count));
            }
            let pairs = lists.shards(&shards).iter().zip(overlays);
            let parts = pairs.map(|(part, overlay)| of.with_overlay(part.clone(), overlay));
            Ok(next_version(&shards, parts.collect::<Result<_, _>>()?))
        }
    }
}

fn done<'a>(
    given: Given,
    tasks: impl Iterator<Item = &'a Task>,
    commits: &BTreeMap<ShardId, Summary>,
) -> Done {
    let (mut sums, mut recipes, mut missing) = (Sums::default(), Vec::new(), Vec::new());
    for task in tasks {
        match commits.get(&task.shard) {
            Some(commit) => {
                sums.add(&commit.outputs);
                recipes.push(commit.recipe);
            }
            None => missing.push(task.shard.clone()),
        }
    }
    let is_dataset = matches!(given, Given::Dataset { .. });
    if let Given::Dataset { parts, .. } = &given {
        parts.iter().for_each(|part| sums.add_shard(part));
    }
    Done {
        given,
        statistics: sums.finish(is_dataset),
        recipes,
        missing,
    }
}
