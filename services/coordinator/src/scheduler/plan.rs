//! The tasks that a run would execute, as far as the store determines them. Reads only.
//!
//! A stage is expanded step by step while every task of a step is committed by this run or, under an
//! equal recipe, by another run. If all steps are, the stages that read it are expanded from its output.

use std::collections::{BTreeMap, BTreeSet};

use capstan_dataset::{Store, commits, lists, recipes, runs, versions};
use capstan_plan::Pipeline;
use capstan_plan::commit::{Commit, OutputRef, Outputs, StageOutput, Summary, VersionRef};
use capstan_plan::expand::Request;
use capstan_plan::expand::memory::{Expansion, Given, Lists, expand};
use capstan_plan::id::{DatasetName, DeviceKind, RunId, ShardId, StageName};
use capstan_plan::stage::{Kind, Output, Overlaid, Split, Stage};
use capstan_plan::task::Task;
use capstan_proto::v1;
use futures::{StreamExt, TryStreamExt};

use super::Handle;
use super::driver::rebase;
use crate::error::Error;

/// Maximum number of concurrent reads of the store.
const IN_FLIGHT: usize = 16;

/// Maximum number of shards of a stage that are checked one by one, because a plan is in memory.
const SURVEYED: usize = 50_000;

/// Surveys the stages of a run from the store.
pub(crate) struct Survey<'a> {
    pub(crate) store: &'a Store,
    pub(crate) run: &'a RunId,
    pub(crate) pipeline: &'a Pipeline,
    /// Whether commits of other runs with equal recipes count as done.
    pub(crate) includes_adoptable: bool,
    /// The device kind that a stage would get if none is fixed yet.
    pub(crate) device_for: &'a (dyn Fn(&Stage) -> Option<DeviceKind> + Sync),
}

/// The state of a stage in the store.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// Number of tasks, if known.
    pub(crate) tasks: Option<u64>,
    /// Number of commits of this run.
    pub(crate) committed: u64,
    /// How many of `committed` were adopted.
    pub(crate) adopted: u64,
    /// Number of tasks that could be adopted from other runs with equal recipes.
    pub(crate) adoptable: u64,
    /// Shards that its version lists as missing.
    pub(crate) missing: Vec<ShardId>,
    /// What it produced, if every task is committed. A version that is not published has number 0.
    pub(crate) output: Option<StageOutput>,
    /// Whether adoptable tasks were not looked up: no worker determines the device kind of the
    /// stage, or it has too many shards.
    pub(crate) adoption_unknown: bool,
}

impl Surveyed {
    /// What the stage produced; `None` if it is not done or its version is not published.
    pub(crate) fn published(&self) -> Option<OutputRef> {
        match self.output.as_ref()?.reference() {
            OutputRef::Dataset { version, .. } if version.number == 0 => None,
            output => Some(output),
        }
    }
}

impl Survey<'_> {
    /// Surveys the stages in topological order.
    ///
    /// # Errors
    /// Those of the store; [`Error::Expand`]: commits that do not fit the stage.
    pub(crate) async fn stages(&self) -> Result<Vec<(Stage, Surveyed)>, Error> {
        let mut outputs: BTreeMap<StageName, StageOutput> = BTreeMap::new();
        let mut lists = Lists::default();
        let mut stages = Vec::with_capacity(self.pipeline.stages.len());
        for name in self.pipeline.order() {
            let Some(stage) = self.pipeline.stage(&name) else {
                continue;
            };
            let inputs = stage.kind.inputs();
            let surveyed = if inputs.iter().all(|input| outputs.contains_key(input)) {
                self.stage(stage, &outputs, &mut lists).await?
            } else {
                Surveyed {
                    tasks: is_single_task(stage).then_some(1),
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
        lists: &mut Lists,
    ) -> Result<Surveyed, Error> {
        let shards = commits::shards_of_stage(self.store, self.run, &stage.name).await?;
        let mut surveyed = Surveyed {
            committed: shards.len() as u64,
            ..Surveyed::default()
        };
        if shards.len() <= SURVEYED {
            return self.small_stage(stage, inputs, lists, surveyed).await;
        }
        if let Some(version) = self.version(stage, inputs).await? {
            surveyed.missing = versions::tasks(self.store, &version).await?.missing;
            let shards = versions::shards(self.store, &version).await?;
            surveyed.tasks = Some(surveyed.committed + surveyed.missing.len() as u64);
            surveyed.output = Some(StageOutput::Dataset(shards));
        }
        surveyed.adoption_unknown = surveyed.output.is_none();
        Ok(surveyed)
    }

    /// The version that a stage of this run published.
    async fn version(
        &self,
        stage: &Stage,
        inputs: &BTreeMap<StageName, StageOutput>,
    ) -> Result<Option<versions::Version>, Error> {
        match dataset_of(&stage.kind, inputs) {
            Some(dataset) => {
                Ok(versions::published(self.store, dataset, self.run, &stage.name).await?)
            }
            None => Ok(None),
        }
    }

    /// Surveys a stage whose commits fit in memory.
    async fn small_stage(
        &self,
        stage: &Stage,
        inputs: &BTreeMap<StageName, StageOutput>,
        lists: &mut Lists,
        mut surveyed: Surveyed,
    ) -> Result<Surveyed, Error> {
        if let Some(StageOutput::Dataset(read)) = read_by_shard(stage, inputs)
            && lists.shards(read).len() as u64 != read.count
        {
            surveyed.tasks = Some(read.count);
            surveyed.adoption_unknown = true;
            return Ok(surveyed);
        }
        let mut commits = self.summaries(stage).await?;
        surveyed.adopted = commits.values().filter(|commit| commit.adopted).count() as u64;
        let version = self.version(stage, inputs).await?;
        if let Some(version) = &version {
            surveyed.missing = versions::tasks(self.store, version).await?.missing;
        }
        let missing: BTreeSet<ShardId> = surveyed.missing.iter().cloned().collect();
        let device = self.device(stage).await?;
        surveyed.adoption_unknown = stage.kind.settings().computes() && device.is_none();
        let includes_adoptable = self.includes_adoptable && !surveyed.adoption_unknown;
        let done = loop {
            let request = Request {
                stage,
                run: self.run,
                seed: self.pipeline.seed,
                device: device.as_ref(),
                inputs,
                steps: &[],
            };
            let tasks = match expand(request, lists, &commits, &missing)? {
                Expansion::Done(done) => break done,
                Expansion::Tasks(tasks) => tasks,
            };
            let known = tasks.len() as u64;
            let open = self
                .adoptable(tasks, includes_adoptable, lists, &mut commits, &missing)
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
                // No version has number 0. It changes no recipe, because recipes do not contain versions.
                let planned = VersionRef { dataset, number: 0 };
                let version = version.map_or(planned, |version| version.reference());
                StageOutput::Dataset(lists.add_shards(version, parts))
            }
            Given::Model(digest) => StageOutput::Model { digest },
            Given::Figures => StageOutput::Figures,
        });
        Ok(surveyed)
    }

    /// The commits of a stage by shard, with all files of their outputs.
    async fn summaries(&self, stage: &Stage) -> Result<BTreeMap<ShardId, Summary>, Error> {
        let mut summaries = BTreeMap::new();
        for commit in commits::of_stage(self.store, self.run, &stage.name).await? {
            let shard = commit.shard.clone();
            summaries.insert(shard, self.summary(commit).await?);
        }
        Ok(summaries)
    }

    async fn summary(&self, commit: Commit) -> Result<Summary, Error> {
        let mut summary = Summary::from(commit);
        if !summary.outputs.manifests.is_empty() {
            summary.outputs.files = lists::output_files(self.store, &summary.outputs).await?;
        }
        Ok(summary)
    }

    /// The device kind of a stage: the fixed one, else the one that it would get.
    async fn device(&self, stage: &Stage) -> Result<Option<DeviceKind>, Error> {
        if !stage.kind.settings().computes() {
            return Ok(None);
        }
        let fixed = runs::device(self.store, self.run, &stage.name).await?;
        Ok(fixed.or_else(|| (self.device_for)(stage)))
    }

    /// Adds the commits of equal recipes to the tasks that have none. Returns the number of tasks
    /// without an equal.
    async fn adoptable(
        &self,
        tasks: Vec<Task>,
        includes_adoptable: bool,
        lists: &Lists,
        commits: &mut BTreeMap<ShardId, Summary>,
        missing: &BTreeSet<ShardId>,
    ) -> Result<usize, Error> {
        let is_open =
            |task: &Task| !commits.contains_key(&task.shard) && !missing.contains(&task.shard);
        let open: Vec<Task> = tasks.into_iter().filter(is_open).collect();
        if !includes_adoptable {
            return Ok(open.len());
        }
        let found: Vec<Option<(ShardId, Summary)>> = futures::stream::iter(open)
            .map(|task| async move {
                let Some(found) = recipes::adopt(self.store, &task.recipe).await? else {
                    return Ok(None);
                };
                let mut summary = self.summary(found).await?;
                rebased(&task, lists, &mut summary.outputs);
                summary.adopted = true;
                Ok::<_, Error>(Some((task.shard, summary)))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let wanted = found.len();
        let before = commits.len();
        commits.extend(found.into_iter().flatten());
        Ok(wanted - (commits.len() - before))
    }
}

/// Aligns overlays with the bases of this run, as adoption would.
fn rebased(task: &Task, lists: &Lists, outputs: &mut Outputs) {
    match task.work.overlaid() {
        Overlaid::None => {}
        Overlaid::One(part) => rebase(&mut outputs.files, std::slice::from_ref(part)),
        Overlaid::All(shards) => rebase(&mut outputs.files, lists.shards(shards)),
    }
}

/// The dataset that a stage reads shard by shard.
fn read_by_shard<'a>(
    stage: &Stage,
    inputs: &'a BTreeMap<StageName, StageOutput>,
) -> Option<&'a StageOutput> {
    match stage.kind.settings().output() {
        Output::DatasetOf(from) => inputs.get(from),
        _ => None,
    }
}

impl Handle {
    /// Returns what [`Handle::submit`] with the same arguments would execute. Writes nothing.
    ///
    /// # Errors
    /// [`Error::RunId`], [`Error::OtherPipeline`], [`Error::Expand`]; [`Error::Store`].
    pub async fn plan(
        &self,
        pipeline: Pipeline,
        seed: Option<u64>,
        run: Option<RunId>,
    ) -> Result<v1::PlanRunResponse, Error> {
        let submission = super::runs::Submission::new(pipeline, seed, run)?;
        let recorded = runs::read(&self.inner.store, &submission.run).await?;
        if let Some(recorded) = &recorded {
            submission.check_equal(recorded)?;
        }
        let survey = Survey {
            store: &self.inner.store,
            run: &submission.run,
            pipeline: &submission.pipeline,
            includes_adoptable: true,
            device_for: &|stage| self.inner.device_for(stage).ok().flatten(),
        };
        let stages = survey.stages().await?;
        Ok(v1::PlanRunResponse {
            exists: recorded.is_some(),
            stages: stages.into_iter().map(to_message).collect(),
            run: submission.run.to_string(),
            warnings: self.warnings(&submission.pipeline)?,
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

/// Whether the stage always has one task.
fn is_single_task(stage: &Stage) -> bool {
    matches!(stage.kind.split(), Split::Global | Split::Gang)
}

/// The dataset that a stage adds a version to; `None` if it adds none.
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
        Some(StageOutput::Dataset(shards)) => Some(&shards.version.dataset),
        _ => None,
    }
}
