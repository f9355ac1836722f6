//! Views of runs and stages, as `GetRun`, `ListRuns` and `Watch` return them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_plan::Pipeline;
use capstan_plan::commit::OutputRef;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The pipeline as JSON.
    pub pipeline_json: Arc<str>,
    /// Seed of every draw.
    pub seed: u64,
    /// Its state.
    pub state: v1::RunState,
    /// Why it failed.
    pub reason: String,
    /// Milliseconds since 1970.
    pub submitted_unix_ms: i64,
    /// Milliseconds since 1970; 0 while it runs.
    pub ended_unix_ms: i64,
    /// Attempts leased since it was last submitted or resumed.
    pub leased: u64,
    /// The stages in topological order: each after the stages that it reads.
    pub stages: Vec<StageView>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageView {
    /// Its name.
    pub stage: StageName,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: v1::StageState,
    /// Tasks so far.
    pub tasks: u64,
    /// Tasks committed, adopted ones included.
    pub committed: u64,
    /// Tasks that needed no work.
    pub adopted: u64,
    /// Shards that are leased now.
    pub leased: BTreeSet<ShardId>,
    /// Shards that were given up, with the reason of each. The task machine has them while the run is
    /// running, the database afterwards.
    pub quarantined: BTreeMap<ShardId, String>,
    /// Progress of the leases that are held now.
    pub progress: BTreeMap<ShardId, UnitProgress>,
    /// Milliseconds since 1970; 0 before it has tasks.
    pub started_unix_ms: i64,
    /// Milliseconds since 1970; 0 while it runs.
    pub ended_unix_ms: i64,
    /// What it produced; `None` until it is done.
    pub output: Option<OutputRef>,
}

/// The progress of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitProgress {
    /// Finished units.
    pub done: u64,
    /// Total units; 0 if unknown.
    pub total: u64,
    /// The unit.
    pub unit: String,
    /// Whether the lease waits for a turn at the processor, or for the other ranks.
    pub waiting: bool,
}

impl RunView {
    /// A run that was submitted at `now`, in milliseconds since 1970.
    pub fn new(
        run: RunId,
        pipeline: &Pipeline,
        pipeline_json: Arc<str>,
        seed: u64,
        now: i64,
    ) -> Self {
        let stages = pipeline.order().into_iter().filter_map(|name| {
            let stage = pipeline.stage(&name)?;
            Some(StageView::new(name, stage.kind.name()))
        });
        Self {
            run,
            pipeline: pipeline.name.clone(),
            pipeline_json,
            seed,
            state: v1::RunState::Running,
            reason: String::new(),
            submitted_unix_ms: now,
            ended_unix_ms: 0,
            leased: 0,
            stages: stages.collect(),
        }
    }

    /// The stage of this name.
    pub fn stage_mut(&mut self, stage: &StageName) -> Option<&mut StageView> {
        self.stages.iter_mut().find(|view| &view.stage == stage)
    }

    /// The run as a message. A list has no stages.
    pub fn to_message(&self, with_stages: bool) -> v1::RunStatus {
        let stages = self.stages.iter().filter(|_| with_stages);
        v1::RunStatus {
            run: self.run.to_string(),
            pipeline: self.pipeline.clone(),
            seed: self.seed,
            state: self.state as i32,
            reason: self.reason.clone(),
            submitted_unix_ms: self.submitted_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            stages: stages.map(StageView::to_message).collect(),
            leased: self.leased,
        }
    }
}

impl StageView {
    /// A stage without tasks.
    pub fn new(stage: StageName, kind: &str) -> Self {
        Self {
            stage,
            kind: kind.to_owned(),
            state: v1::StageState::Waiting,
            tasks: 0,
            committed: 0,
            adopted: 0,
            leased: BTreeSet::new(),
            quarantined: BTreeMap::new(),
            progress: BTreeMap::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
            output: None,
        }
    }

    fn to_message(&self) -> v1::StageStatus {
        let progress = self.progress.iter();
        v1::StageStatus {
            stage: self.stage.to_string(),
            kind: self.kind.clone(),
            state: self.state as i32,
            tasks: self.tasks,
            committed: self.committed,
            adopted: self.adopted,
            leased: self.leased.len() as u64,
            quarantined: self.quarantined.keys().map(ShardId::to_string).collect(),
            progress: progress
                .map(|(shard, at)| at.to_message(&self.stage, shard))
                .collect(),
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            output: self.output.as_ref().map(Into::into),
        }
    }
}

impl UnitProgress {
    /// The progress as a message.
    pub fn to_message(&self, stage: &StageName, shard: &ShardId) -> v1::TaskProgress {
        v1::TaskProgress {
            stage: stage.to_string(),
            shard: shard.to_string(),
            done: self.done,
            total: self.total,
            unit: self.unit.clone(),
            waiting: self.waiting,
        }
    }
}
