//! The tasks of each run by stage, and their runtimes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use capstan_plan::id::{RunId, StageName};

use super::queues::RunNumber;
use super::{Key, Ordinal};

/// Number of latest runtimes per stage that the median is computed from.
const RUNTIMES: usize = 256;
/// Minimum number of runtimes for a median.
const FEWEST: usize = 5;

/// Tasks by run and stage.
#[derive(Debug, Default)]
pub(super) struct Stages {
    runs: BTreeMap<RunId, Run>,
    /// The number of the latest run.
    last_number: RunNumber,
}

/// A run.
#[derive(Debug, Default)]
struct Run {
    number: RunNumber,
    stages: BTreeMap<StageName, Stage>,
}

/// The tasks of a stage's current step.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Tasks that are not committed.
    pub(super) tasks: BTreeSet<Ordinal>,
    committed: usize,
    /// Number of tasks of the step. Some may be added later.
    expected: usize,
    runtimes: VecDeque<Duration>,
}

impl Stage {
    /// How long an attempt may take before the task gets a second lease: three times the median, once
    /// more than nine of ten tasks are committed.
    ///
    /// Dean and Ghemawat, MapReduce (OSDI 2004), section 3.6, backup tasks.
    fn straggler_limit(&self) -> Option<Duration> {
        let all = self.expected.max(self.committed + self.tasks.len());
        let is_late = self.committed * 10 > all * 9;
        if !is_late || self.tasks.is_empty() || self.runtimes.len() < FEWEST {
            return None;
        }
        let mut runtimes: Vec<Duration> = self.runtimes.iter().copied().collect();
        let middle = runtimes.len() / 2;
        let (_, median, _) = runtimes.select_nth_unstable(middle);
        Some(*median * 3)
    }
}

impl Stages {
    /// Adds a task. Returns the number of its run.
    pub(super) fn add(&mut self, key: &Key, ordinal: Ordinal) -> RunNumber {
        let run = self.runs.entry(key.run.clone()).or_insert_with(|| {
            self.last_number += 1;
            Run {
                number: self.last_number,
                stages: BTreeMap::new(),
            }
        });
        let stage = run.stages.entry(key.stage.clone()).or_default();
        stage.tasks.insert(ordinal);
        run.number
    }

    /// Replaces the names in a key by clones of the stored names, which share their memory.
    pub(super) fn share_names(&self, key: &mut Key) {
        let Some((name, run)) = self.runs.get_key_value(&key.run) else {
            return;
        };
        key.run = name.clone();
        if let Some((name, _)) = run.stages.get_key_value(&key.stage) {
            key.stage = name.clone();
        }
    }

    /// Records a commit.
    pub(super) fn committed(&mut self, key: &Key, runtime: Option<Duration>) {
        let Some(stage) = self.stage_mut(&key.run, &key.stage) else {
            return;
        };
        stage.committed += 1;
        let Some(runtime) = runtime else { return };
        if stage.runtimes.len() == RUNTIMES {
            stage.runtimes.pop_front();
        }
        stage.runtimes.push_back(runtime);
    }

    /// Sets the number of tasks of a step.
    pub(super) fn expect(&mut self, run: &RunId, stage: &StageName, tasks: usize) {
        if let Some(stage) = self.stage_mut(run, stage) {
            stage.expected = tasks;
        }
    }

    /// Removes a task.
    pub(super) fn remove(&mut self, key: &Key, ordinal: Ordinal) {
        if let Some(stage) = self.stage_mut(&key.run, &key.stage) {
            stage.tasks.remove(&ordinal);
        }
    }

    /// Stages that can have stragglers, with the runtime that makes an attempt one.
    pub(super) fn late(&self) -> BTreeMap<(&RunId, &StageName), Duration> {
        let mut late = BTreeMap::new();
        for (id, run) in &self.runs {
            for (name, stage) in &run.stages {
                if let Some(limit) = stage.straggler_limit() {
                    late.insert((id, name), limit);
                }
            }
        }
        late
    }

    /// Tasks of a run.
    pub(super) fn tasks_of_run(&self, run: &RunId) -> Vec<Ordinal> {
        let stages = self
            .runs
            .get(run)
            .into_iter()
            .flat_map(|run| run.stages.values());
        stages
            .flat_map(|stage| stage.tasks.iter().copied())
            .collect()
    }

    /// Removes a run. Returns its number and its tasks.
    pub(super) fn forget(&mut self, run: &RunId) -> Option<(RunNumber, Vec<Ordinal>)> {
        let tasks = self.tasks_of_run(run);
        let run = self.runs.remove(run)?;
        Some((run.number, tasks))
    }

    /// Removes a stage of a run at the end of a step. Returns its tasks.
    pub(super) fn forget_stage(&mut self, run: &RunId, stage: &StageName) -> BTreeSet<Ordinal> {
        let run = self.runs.get_mut(run);
        let stage = run.and_then(|run| run.stages.remove(stage));
        stage.map(|stage| stage.tasks).unwrap_or_default()
    }

    fn stage_mut(&mut self, run: &RunId, stage: &StageName) -> Option<&mut Stage> {
        self.runs.get_mut(run)?.stages.get_mut(stage)
    }
}
