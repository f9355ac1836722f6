//! What a run would do: its stages as far as the store tells. Reads only, starts nothing.
//!
//! A stage is expanded for as long as every task of its step is committed, by this run or, under
//! an equal recipe, by another; where it ends so, later stages are expanded from what it gave.

use std::collections::{BTreeMap, BTreeSet};

use capstan_dataset::{Store, commits, recipes, runs, versions};
use capstan_plan::Pipeline;
use capstan_plan::commit::{Commit, OutputRef, StageOutput, VersionRef};
use capstan_plan::expand::{Expansion, Given, Request, expand};
use capstan_plan::id::{AttemptId, DatasetName, DeviceKind, LeaseEpoch, RunId, ShardId, StageName};
use capstan_plan::stage::{Kind, Output, Split, Stage};
use capstan_plan::task::Task;
use capstan_proto::v1;
use futures::{StreamExt, TryStreamExt};

use super::Handle;
use super::driver::rebased;
use crate::error::Error;

/// Reads of the store in flight at most.
const IN_FLIGHT: usize = 16;

/// The stages of a run, by what lies in the store.
pub(crate) struct Survey<'a> {
    pub(crate) store: &'a Store,
    pub(crate) run: &'a RunId,
    pub(crate) pipeline: &'a Pipeline,
    /// Whether what other runs made by equal recipes counts.
    pub(crate) adopts: bool,
    /// What a stage that computes would compute on, where nothing is fixed yet.
    pub(crate) device_for: &'a (dyn Fn(&Stage) -> Option<DeviceKind> + Sync),
}

/// A stage, by what lies in the store.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// Tasks, where they are known.
    pub(crate) tasks: Option<u64>,
    /// Commits of this run.
    pub(crate) committed: u64,
    /// Of these, adopted ones.
    pub(crate) adopted: u64,
    /// Tasks that an equal recipe of another run would do.
    pub(crate) adoptable: u64,
    /// Shards that its version says are missing.
    pub(crate) missing: Vec<ShardId>,
    /// What it produced, where all of it is committed. A version that is not published has number 0.
    pub(crate) output: Option<StageOutput>,
    /// Whether no worker is there to say what kind of device it computes on, so that nothing was
    /// looked up.
    pub(crate) adoption_unknown: bool,
}

impl Surveyed {
    /// What the stage produced; `None` where it is not done, or its version is not published.
    pub(crate) fn published(&self) -> Option<OutputRef> {
        match self.output.as_ref()?.reference() {
            OutputRef::Dataset { version, .. } if version.number == 0 => None,
            output => Some(output),
        }
    }
}

impl Survey<'_> {
    /// The stages in the pipeline's order.
    ///
    /// # Errors
    /// Those of the store; [`Error::Expand`]: commits that do not hold what their tasks make.
    pub(crate) async fn stages(&self) -> Result<Vec<(Stage, Surveyed)>, Error> {
        let mut outputs: BTreeMap<StageName, StageOutput> = BTreeMap::new();
        let mut stages = Vec::with_capacity(self.pipeline.stages.len());
        for name in self.pipeline.order() {
            let Some(stage) = self.pipeline.stage(&name) else {
                continue;
            };
            let inputs = stage.kind.inputs();
            let surveyed = if inputs.iter().all(|input| outputs.contains_key(input)) {
                self.stage(stage, &outputs).await?
            } else {
                Surveyed {
                    tasks: alone(stage).then_some(1),
                    ..Surveyed::default()
                }
            };
            if let Some(output) = &surveyed.output {
                outputs.insert(name, output.clone());
            }
            stages.push((stage.clone(), surveyed));
        }
        Ok(stages)
    }

    async fn stage(
        &self,
        stage: &Stage,
        inputs: &BTreeMap<StageName, StageOutput>,
    ) -> Result<Surveyed, Error> {
        let mut commits = commits::of_stage(self.store, self.run, &stage.name).await?;
        let mut surveyed = Surveyed {
            committed: commits.len() as u64,
            adopted: commits.iter().filter(|commit| commit.adopted).count() as u64,
            ..Surveyed::default()
        };
        let version = match dataset_of(&stage.kind, inputs) {
            Some(dataset) => {
                versions::published(self.store, dataset, self.run, &stage.name).await?
            }
            None => None,
        };
        if let Some(version) = &version {
            surveyed.missing = versions::tasks(self.store, version).await?.missing;
        }
        let missing: BTreeSet<ShardId> = surveyed.missing.iter().cloned().collect();
        let device = self.device(stage).await?;
        surveyed.adoption_unknown = stage.kind.settings().computes() && device.is_none();
        let adopts = self.adopts && !surveyed.adoption_unknown;
        let done = loop {
            let request = Request {
                stage,
                run: self.run,
                seed: self.pipeline.seed,
                device: device.as_ref(),
                inputs,
                commits: &commits,
                missing: &missing,
            };
            let tasks = match expand(request)? {
                Expansion::Done(done) => break done,
                Expansion::Tasks(tasks) => tasks,
            };
            let known = tasks.len() as u64;
            let open = self
                .adoptable(tasks, adopts, &mut commits, &missing)
                .await?;
            surveyed.adoptable = commits.len() as u64 - surveyed.committed;
            if open > 0 {
                let is_last_step = !matches!(stage.kind.split(), Split::Waves);
                surveyed.tasks = is_last_step.then_some(known);
                return Ok(surveyed);
            }
        };
        surveyed.tasks = Some((commits.len() + missing.len()) as u64);
        surveyed.output = Some(match done.given {
            Given::Dataset { dataset, parts, .. } => {
                // A number that no version has: recipes hold rows, never versions.
                let planned = VersionRef { dataset, number: 0 };
                let version = version.map_or(planned, |version| version.reference());
                StageOutput::Dataset { version, parts }
            }
            Given::Model(digest) => StageOutput::Model { digest },
            Given::Figures => StageOutput::Figures,
        });
        Ok(surveyed)
    }

    /// What a stage computes on: what was fixed, else what would be.
    async fn device(&self, stage: &Stage) -> Result<Option<DeviceKind>, Error> {
        if !stage.kind.settings().computes() {
            return Ok(None);
        }
        let fixed = runs::device(self.store, self.run, &stage.name).await?;
        Ok(fixed.or_else(|| (self.device_for)(stage)))
    }

    /// Adds the commits that would be made of equal recipes, of tasks that have none. Gives how
    /// many tasks have no equal.
    async fn adoptable(
        &self,
        tasks: Vec<Task>,
        adopts: bool,
        commits: &mut Vec<Commit>,
        missing: &BTreeSet<ShardId>,
    ) -> Result<usize, Error> {
        let settled: BTreeSet<&ShardId> = commits.iter().map(|c| &c.shard).chain(missing).collect();
        let is_open = |task: &Task| !settled.contains(&task.shard);
        let open: Vec<Task> = tasks.into_iter().filter(is_open).collect();
        if !adopts {
            return Ok(open.len());
        }
        let found: Vec<Option<Commit>> = futures::stream::iter(open)
            .map(|task| async move {
                let found = recipes::adopt(self.store, &task.recipe).await?;
                Ok::<_, Error>(found.map(|found| adopted(&task, found)))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let wanted = found.len();
        let found: Vec<Commit> = found.into_iter().flatten().collect();
        let open = wanted - found.len();
        commits.extend(found);
        Ok(open)
    }
}

impl Handle {
    /// What [`Handle::submit`] of the same arguments would have to do. Starts and writes nothing.
    ///
    /// # Errors
    /// [`Error::RunId`], [`Error::OtherPipeline`], [`Error::Expand`]; [`Error::Store`].
    pub async fn plan(
        &self,
        pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<v1::PlanRunResponse, Error> {
        let asked = super::runs::Asked::new(pipeline, seed, run)?;
        let standing = runs::read(&self.inner.store, &asked.run).await?;
        if let Some(standing) = &standing {
            asked.must_equal(standing)?;
        }
        let survey = Survey {
            store: &self.inner.store,
            run: &asked.run,
            pipeline: &asked.pipeline,
            adopts: true,
            device_for: &|stage| self.inner.device_for(stage).ok().flatten(),
        };
        let stages = survey.stages().await?;
        Ok(v1::PlanRunResponse {
            exists: standing.is_some(),
            stages: stages.into_iter().map(to_message).collect(),
            run: asked.run.to_string(),
            warnings: self.warnings(&asked.pipeline)?,
        })
    }
}

fn to_message((stage, surveyed): (Stage, Surveyed)) -> v1::StagePlan {
    let inputs = stage.kind.inputs();
    v1::StagePlan {
        stage: stage.name.to_string(),
        kind: stage.kind.name().to_owned(),
        reads: inputs.iter().map(StageName::to_string).collect(),
        tasks: surveyed.tasks,
        done: surveyed.committed + surveyed.adoptable,
        adoption_unknown: surveyed.adoption_unknown,
        output: surveyed.published().as_ref().map(Into::into),
    }
}

/// Whether the stage is one task, whatever it reads.
fn alone(stage: &Stage) -> bool {
    matches!(stage.kind.split(), Split::Global | Split::Gang)
}

/// The dataset that a stage adds a version to; `None` where it gives none.
pub(super) fn dataset_of<'a>(
    kind: &'a Kind,
    inputs: &'a BTreeMap<StageName, StageOutput>,
) -> Option<&'a DatasetName> {
    let from = match kind.settings().output() {
        Output::NewDataset(dataset) => return Some(dataset),
        Output::DatasetOf(from) => from,
        Output::Model | Output::Vocabulary | Output::Figures => return None,
    };
    match inputs.get(from) {
        Some(StageOutput::Dataset { version, .. }) => Some(&version.dataset),
        _ => None,
    }
}

/// The commit that adopting would make, but for its attempt.
fn adopted(task: &Task, found: Commit) -> Commit {
    Commit {
        run: task.run.clone(),
        stage: task.stage.clone(),
        shard: task.shard.clone(),
        attempt: AttemptId(String::new()),
        lease_epoch: LeaseEpoch::default(),
        outputs: rebased(&task.work, found.outputs),
        adopted: true,
        ..found
    }
}
