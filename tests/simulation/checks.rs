//! What holds at every moment of a history, and at its end.
//!
//! - A lease is lost through silence, the end of its run, another rank or a commit, and nothing else.
//! - A task whose completion was answered is never handed out again.
//! - A stage that is done keeps its times.
//! - A coordinator that is told to stop stops in time; one that was superseded writes nothing.
//! - At the end the run is done, with one commit for each task, one version for each stage that gives
//!   one, and a database that says the same as the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use capstan_coordinator::machine::{Claim, Key};
use capstan_coordinator::state::Database;
use capstan_coordinator::view::RunView;
use capstan_dataset::{commits, versions};
use capstan_plan::id::RunId;
use capstan_proto::v1;

use crate::world::{World, lock};

/// Slack of a lease's end: delays of the network and the beat.
const SLACK: Duration = Duration::from_secs(1);

/// Tasks of the pipeline by stage, in the order of the stages.
pub const TASKS: [(&str, usize); 6] = [
    ("pairs", 10),
    ("curated", 10),
    ("balanced", 1),
    ("words", 1),
    ("blip", 1),
    ("captions", 10),
];

#[derive(Default)]
pub struct Checks {
    /// Tasks whose completion was answered, and when.
    told: Mutex<BTreeMap<Key, Duration>>,
    /// Ends of stages as written, by submission.
    ended: Mutex<BTreeMap<(i64, String), i64>>,
    /// Counts cancels and submissions: they end leases.
    upheavals: AtomicU64,
    /// When the last of them was.
    upheaved_ms: AtomicU64,
}

impl Checks {
    /// The run is ended or begun by a person: leases end with it.
    pub fn upheaval(&self, world: &World) {
        self.upheavals.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(world.now().as_millis()).unwrap();
        self.upheaved_ms.store(now, Ordering::Relaxed);
    }

    /// - `asked`: when the worker asked for work.
    pub fn granted(&self, world: &World, key: &Key, asked: Duration) {
        if lock(&self.told).get(key).is_some_and(|told| *told < asked) {
            world.violation(format!(
                "{key} is handed out although its completion was answered"
            ));
        }
    }

    pub fn told_complete(&self, world: &World, key: &Key) {
        world.note(format!("{key} is complete"));
        lock(&self.told).entry(key.clone()).or_insert(world.now());
    }

    /// A worker was told that it lost its lease.
    ///
    /// - `heard`: when it sent the last request that was answered well.
    pub async fn lost(
        &self,
        world: &World,
        claim: &Claim,
        (heard, lease): (Duration, Duration),
        is_gang: bool,
    ) {
        let silent = (world.now() - heard).saturating_sub(world.frozen_since(heard));
        world.note(format!(
            "{} lost {} after {:.1} s",
            claim.worker,
            claim.key,
            silent.as_secs_f64()
        ));
        let upheaved = Duration::from_millis(self.upheaved_ms.load(Ordering::Relaxed));
        let is_excused = is_gang || upheaved + SLACK >= heard || silent + SLACK >= lease;
        if is_excused {
            return;
        }
        let Key { run, stage, shard } = &claim.key;
        // A twin, or an earlier attempt, may have committed.
        for _ in 0..100 {
            match commits::read(&world.store(), run, stage, shard).await {
                Ok(Some(_)) => return,
                Ok(None) => break,
                Err(_) => tokio::time::sleep(Duration::from_secs(5)).await,
            }
        }
        world.violation(format!(
            "{} lost {} after {:.1} s of silence",
            claim.worker,
            claim.key,
            silent.as_secs_f64()
        ));
    }

    /// Compares what is written of a run with what was written before.
    pub async fn look(&self, world: &World, run: &RunId) {
        let Ok(Some(view)) = world.tables().run(run).await else {
            return;
        };
        let mut ended = lock(&self.ended);
        for stage in view.stages {
            if stage.state != v1::StageState::Done {
                continue;
            }
            let key = (view.submitted_unix_ms, stage.stage.to_string());
            let before = *ended.entry(key).or_insert(stage.ended_unix_ms);
            if before != stage.ended_unix_ms {
                world.violation(format!("stage {} ended twice", stage.stage));
            }
        }
    }

    /// After calm: `view` is the coordinator's.
    pub async fn end(&self, world: &World, run: &RunId, view: &RunView) {
        if view.state != v1::RunState::Done {
            let (state, reason) = (view.state.as_str_name(), &view.reason);
            return world.violation(format!("the run ends as {state}: {reason}"));
        }
        for (stage, tasks) in TASKS {
            let found = commits::of_stage(&world.store(), run, &stage.into()).await;
            let shards: BTreeSet<_> = found.unwrap().into_iter().map(|c| c.shard).collect();
            if shards.len() != tasks {
                world.violation(format!("{} commits of {stage}", shards.len()));
            }
            let shown = view
                .stages
                .iter()
                .find(|shown| shown.stage.as_str() == stage);
            let shown = shown.unwrap();
            let is_whole = (shown.tasks, shown.committed) == (tasks as u64, tasks as u64);
            if !is_whole || !shown.quarantined.is_empty() || !shown.leased.is_empty() {
                world.violation(format!("stage {stage} is shown as {shown:?}"));
            }
        }
        let versions = versions::list(&world.store(), &"web".into()).await.unwrap();
        if versions.len() != 4 {
            world.violation(format!("{} versions", versions.len()));
        }
        match world.tables().run(run).await.unwrap() {
            Some(written) if is_equal(&written, view) => {}
            written => world.violation(format!("written is {written:?}, shown is {view:?}")),
        }
    }
}

fn is_equal(written: &RunView, shown: &RunView) -> bool {
    let mut shown = shown.clone();
    for stage in &mut shown.stages {
        stage.leased.clear();
        stage.progress.clear();
    }
    *written == shown
}
