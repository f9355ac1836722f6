//! What a stage has to do next: its tasks, step by step, as a pure function of what is committed.
//!
//! ```text
//! expand(stage, inputs, commits so far) ─► Tasks(the current step) ─► committed ─► expand again
//!                                      └─► Done(what the stage gave)
//!
//! per shard   00000, 00001 ...                                      ─► Done
//! slices      00000, 00001 ... as many as the stage asks for        ─► Done
//! global      all                                                   ─► Done
//! gang        all, by every rank together                           ─► Done
//! waves       frontier-0 ─► pages-0-* ─► frontier-1 ─► pages-1-* ... until a frontier is
//!             empty or max_depth is reached ─► image-frontier ─► images-* ─► Done
//! ```
//!
//! So a coordinator that starts anew asks again and goes on where the commits end.

mod done;
mod recipes;
#[cfg(test)]
mod tests;
mod waves;

use std::collections::{BTreeMap, BTreeSet};

use crate::commit::{Commit, FileKind, Part, StageOutput, VersionRef};
use crate::id::{DatasetName, ModelDigest, RecipeHash, RunId, ShardId, StageName};
use crate::stage::{Import, Kind, Source, Stage};
use crate::task::{Data, Slice, Task, Work};

/// A stage and everything that decides what it does next.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// The run.
    pub run: &'a RunId,
    /// Seed of the run.
    pub seed: u64,
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
    match &request.stage.kind {
        Kind::Crawl(config) => waves::crawl(&step, config, &mut Vec::new()),
        Kind::Import(config) => step.import(config),
        Kind::Model(config) => step.global(Work::Model {
            config: config.clone(),
        }),
        Kind::Curate(config) => {
            step.per_shard(&config.from, FileKind::Curation, |part| Work::Curate {
                config: config.clone(),
                part,
            })
        }
        Kind::Balance(config) => {
            let (_, parts) = step.dataset(&config.from)?;
            step.global(Work::Balance {
                config: config.clone(),
                parts: parts.to_vec(),
            })
        }
        Kind::Tokenizer(config) => {
            let data = step.data(&config.data)?;
            step.global(Work::Tokenizer {
                config: config.clone(),
                data,
            })
        }
        Kind::Train(config) => step.global(Work::Train {
            config: config.clone(),
            data: step.data(&config.data)?,
            tokenizer: step.model(&config.tokenizer)?,
            init: config
                .init
                .as_ref()
                .map(|init| step.model(init))
                .transpose()?,
        }),
        Kind::Caption(config) => {
            let model = step.model(&config.model)?;
            step.per_shard(&config.from, FileKind::Captions, |part| Work::Caption {
                config: config.clone(),
                part,
                model,
            })
        }
        Kind::Filter(config) => {
            let model = step.model(&config.model)?;
            step.per_shard(&config.from, FileKind::Verdicts, |part| Work::Filter {
                config: config.clone(),
                part,
                model,
            })
        }
        Kind::Evaluate(config) => {
            let parts = |from: Option<&StageName>| match from {
                Some(from) => step.dataset(from).map(|(_, parts)| parts.to_vec()),
                None => Ok(Vec::new()),
            };
            step.global(Work::Evaluate {
                config: config.clone(),
                model: step.model(&config.model)?,
                captioner: config
                    .captioner
                    .as_ref()
                    .map(|c| step.model(c))
                    .transpose()?,
                retrieval: parts(config.retrieval.as_ref().map(|set| &set.from))?,
                captioning: parts(config.captioning.as_ref().map(|set| &set.from))?,
                zero_shot: parts(config.zero_shot.as_ref().map(|set| &set.from))?,
            })
        }
    }
}

impl Done {
    fn new(step: &Step<'_>, given: Given, tasks: &[Task]) -> Self {
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

/// Shards of a crawl that later steps were built without, so that they are not made any more.
///
/// # Errors
/// Those of [`expand`].
pub fn left_out(request: Request<'_>) -> Result<Vec<ShardId>, Error> {
    let mut left_out = Vec::new();
    if let Kind::Crawl(config) = &request.stage.kind {
        waves::crawl(&Step::new(request), config, &mut left_out)?;
    }
    Ok(left_out)
}

/// A request with its commits by shard.
struct Step<'a> {
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

    fn task(&self, shard: impl Into<ShardId>, work: Work) -> Task {
        let Request {
            stage, run, seed, ..
        } = self.request;
        Task {
            run: run.clone(),
            stage: stage.name.clone(),
            shard: shard.into(),
            recipe: recipes::of(&stage.kind, run, seed, &work),
            seed,
            work,
        }
    }

    fn commit(&self, shard: &ShardId) -> Option<&'a Commit> {
        self.commits.get(shard).copied()
    }

    /// The commit of a task that everything after it needs.
    fn needed(&self, shard: &ShardId) -> Result<Option<&'a Commit>, Error> {
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
    fn settled(&self, tasks: &[Task]) -> bool {
        tasks.iter().all(|task| {
            self.commit(&task.shard).is_some() || self.request.missing.contains(&task.shard)
        })
    }

    /// A stage of one task.
    fn global(&self, work: Work) -> Result<Expansion, Error> {
        let task = self.task(ALL, work);
        match self.needed(&task.shard)? {
            None => Ok(Expansion::Tasks(vec![task])),
            Some(commit) => done::global(self, task, commit).map(Expansion::Done),
        }
    }

    /// A source in slices; one that is not split is a task of its own, `all`.
    fn import(&self, config: &Import) -> Result<Expansion, Error> {
        let of = config.shards();
        let work = |index| Work::Import {
            config: config.clone(),
            slice: Slice { index, of },
        };
        if of == 1 {
            return self.global(work(0));
        }
        let tasks: Vec<Task> = (0..of)
            .map(|index| self.task(ordinal_name(index), work(index)))
            .collect();
        if !self.settled(&tasks) {
            return Ok(Expansion::Tasks(tasks));
        }
        done::slices(self, config, tasks).map(Expansion::Done)
    }

    /// A stage of one task a shard, each adding an overlay.
    fn per_shard(
        &self,
        from: &StageName,
        overlay: FileKind,
        work: impl Fn(Part) -> Work,
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
        done::per_shard(self, version, parts, overlay, tasks).map(Expansion::Done)
    }

    fn dataset(&self, input: &StageName) -> Result<(&'a VersionRef, &'a [Part]), Error> {
        match self.request.inputs.get(input) {
            Some(StageOutput::Dataset { version, parts }) => Ok((version, parts)),
            _ => Err(self.input(input, "a dataset")),
        }
    }

    fn model(&self, input: &StageName) -> Result<ModelDigest, Error> {
        match self.request.inputs.get(input) {
            Some(StageOutput::Model { digest }) => Ok(*digest),
            _ => Err(self.input(input, "a model")),
        }
    }

    fn data(&self, sources: &[Source]) -> Result<Vec<Data>, Error> {
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

    fn damaged(&self, shard: &ShardId, reason: impl Into<String>) -> Error {
        let stage = self.request.stage.name.clone();
        Error::Commit {
            stage,
            shard: shard.clone(),
            reason: reason.into(),
        }
    }
}

/// The shard of a part: its ordinal in the version.
fn ordinal_name(ordinal: usize) -> String {
    ShardId::ordinal(ordinal).0
}
