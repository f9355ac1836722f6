//! A database without a disk, for simulations. The value survives a coordinator that is restarted over
//! it, as a file survives a process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use capstan_plan::commit::Summary;
use capstan_plan::id::{LeaseEpoch, RunId, ShardId, StageName, WorkerId};
use capstan_proto::v1;

use super::{Database, Error, Known, NewTask, Op, Restored, Shards, ViewChange};
use crate::machine::{Change, Held, Key, Lease, Rank, State, Task, What};
use crate::view::{RunView, StageView};

/// A database in memory. Cheap to clone; clones share their contents.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    known: Known,
    runs: BTreeMap<RunId, Rows>,
    /// The last position of a task.
    position: u64,
}

type TaskId = (StageName, ShardId);

/// The rows of a run.
#[derive(Debug)]
struct Rows {
    view: RunView,
    tasks: BTreeMap<TaskId, (u64, NewTask)>,
    states: BTreeMap<TaskId, TaskState>,
    attempts: BTreeMap<(StageName, ShardId, LeaseEpoch), Attempt>,
    commits: BTreeMap<TaskId, Summary>,
    listed: BTreeSet<StageName>,
    /// Shards that were given up, with the reason of each.
    given_up: BTreeMap<TaskId, String>,
}

#[derive(Debug)]
struct TaskState {
    state: State,
    attempts: u32,
    failed_on: BTreeSet<WorkerId>,
    last_worker: Option<WorkerId>,
}

#[derive(Debug)]
struct Attempt {
    lease: Lease,
    is_open: bool,
}

impl InMemory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Submit(view) => {
                let before = self.runs.remove(&view.run);
                let rows = Rows {
                    view: stored(view),
                    tasks: BTreeMap::new(),
                    states: BTreeMap::new(),
                    attempts: BTreeMap::new(),
                    commits: before.map(|rows| rows.commits).unwrap_or_default(),
                    listed: BTreeSet::new(),
                    given_up: given_up(view),
                };
                self.runs.insert(view.run.clone(), rows);
            }
            Op::Tasks(tasks) => {
                for task in tasks {
                    self.position += 1;
                    if let Some(rows) = self.runs.get_mut(&task.key.run) {
                        let row = (self.position, task.clone());
                        rows.tasks.entry(task_id(&task.key)).or_insert(row);
                    }
                }
            }
            Op::Change(change) => {
                if let Some(rows) = self.runs.get_mut(&change.key.run) {
                    rows.change(change);
                }
            }
            Op::Commits {
                run,
                stage,
                commits,
            } => {
                if let Some(rows) = self.runs.get_mut(run) {
                    let commits = commits.iter().cloned();
                    let of_stage = commits.map(|(shard, commit)| ((stage.clone(), shard), commit));
                    rows.commits.extend(of_stage);
                }
            }
            Op::Lost { run, stage, shards } => {
                if let Some(rows) = self.runs.get_mut(run) {
                    for shard in shards {
                        rows.commits.remove(&(stage.clone(), shard.clone()));
                    }
                }
            }
            Op::GivenUp { run, stage, shards } => {
                if let Some(rows) = self.runs.get_mut(run) {
                    for (shard, reason) in shards {
                        let row = rows.given_up.entry((stage.clone(), shard.clone()));
                        row.or_insert_with(|| reason.clone());
                    }
                }
            }
            Op::Listed { run, stage } => {
                if let Some(rows) = self.runs.get_mut(run) {
                    rows.listed.insert(stage.clone());
                }
            }
            Op::Prune(run) => {
                self.runs.remove(run);
            }
        }
    }

    fn show(&mut self, change: &ViewChange) {
        let Some(rows) = self.runs.get_mut(&change.view.run) else {
            return;
        };
        let before = std::mem::replace(&mut rows.view, stored(&change.view));
        for old in before.stages {
            let is_kept = !change.stages.contains(&old.stage);
            if let Some(stage) = rows.view.stage_mut(&old.stage).filter(|_| is_kept) {
                *stage = old;
            }
        }
    }
}

impl Rows {
    fn change(&mut self, change: &Change) {
        let (stage, shard) = task_id(&change.key);
        let of = |lease_epoch| (stage.clone(), shard.clone(), lease_epoch);
        let leases = change.task.held().into_iter().flat_map(Held::leases);
        match &change.what {
            What::Added => return,
            What::Began(lease_epoch) | What::RankFinished(lease_epoch) => {
                for lease in leases.filter(|lease| lease.lease_epoch == *lease_epoch) {
                    let attempt = Attempt {
                        lease: lease.clone(),
                        is_open: true,
                    };
                    self.attempts.insert(of(*lease_epoch), attempt);
                }
                return;
            }
            What::TakenBack(lease_epoch) => self.end(&of(*lease_epoch)),
            What::Moved(ended) => {
                for lease_epoch in ended {
                    self.end(&of(*lease_epoch));
                }
            }
            What::Retried => {}
        }
        let task = &change.task;
        let id = task_id(&change.key);
        match &task.state {
            State::Quarantined => self.given_up.insert(id, change.message.clone()),
            _ => self.given_up.remove(&id),
        };
        if task.state == State::Committed {
            let of_task = |id: &(StageName, ShardId, LeaseEpoch)| id.0 == stage && id.1 == shard;
            self.attempts.retain(|id, _| !of_task(id));
            let id = (stage, shard);
            self.tasks.remove(&id);
            self.states.remove(&id);
            return;
        }
        let state = TaskState {
            state: task.state.clone(),
            attempts: task.attempts,
            failed_on: task.failed_on.clone(),
            last_worker: task.last_worker.clone(),
        };
        self.states.insert((stage, shard), state);
    }

    fn end(&mut self, attempt: &(StageName, ShardId, LeaseEpoch)) {
        if let Some(attempt) = self.attempts.get_mut(attempt) {
            attempt.is_open = false;
        }
    }

    /// The view, with the shards that were given up.
    fn view(&self) -> RunView {
        let mut view = self.view.clone();
        for ((stage, shard), reason) in &self.given_up {
            if let Some(stage) = view.stage_mut(stage) {
                stage.quarantined.insert(shard.clone(), reason.clone());
            }
        }
        view
    }

    /// Tasks that are not committed, in the order of insertion.
    fn open_tasks(&self) -> Vec<(Key, Task)> {
        let mut tasks: Vec<(u64, Key, Task)> = Vec::new();
        for (id, (position, new)) in &self.tasks {
            let mut task = Task::new(new.spec.clone());
            if let Some(stored) = self.states.get(id) {
                // The attempts show whether it is leased. A backoff ends with the process.
                task.state = match &stored.state {
                    State::Committed => continue,
                    State::Quarantined => State::Quarantined,
                    State::Cancelled => State::Cancelled,
                    State::Blocked { .. } | State::Ready | State::Leased(_) => State::Ready,
                };
                task.attempts = stored.attempts;
                task.failed_on.clone_from(&stored.failed_on);
                task.last_worker.clone_from(&stored.last_worker);
            }
            let mut held = self.leases(id);
            if let Some(lease) = held.next() {
                let twin = held.next();
                let numbers = [&lease].into_iter().chain(&twin).map(|lease| lease.number);
                task.attempts = numbers.fold(task.attempts, u32::max);
                task.state = State::Leased(Box::new(Held { lease, twin }));
            }
            tasks.push((*position, new.key.clone(), task));
        }
        tasks.sort_by_key(|(position, ..)| *position);
        let tasks = tasks.into_iter().map(|(_, key, task)| (key, task));
        tasks.collect()
    }

    /// Open leases of a task, by epoch.
    fn leases(&self, (stage, shard): &TaskId) -> impl Iterator<Item = Lease> + use<'_> {
        let first = (stage.clone(), shard.clone(), LeaseEpoch::default());
        let of_task = self.attempts.range(first.clone()..);
        let of_task = of_task.take_while(move |(id, _)| (&id.0, &id.1) == (&first.0, &first.1));
        let open = of_task.filter(|(_, attempt)| attempt.is_open);
        open.map(|(_, attempt)| Lease {
            since: Duration::ZERO,
            ranks: attempt.lease.ranks.iter().map(without_clock).collect(),
            ..attempt.lease.clone()
        })
    }
}

/// A deadline without its clock, which ends with the process.
fn without_clock(rank: &Rank) -> Rank {
    Rank {
        deadline: Duration::ZERO,
        ..rank.clone()
    }
}

fn task_id(key: &Key) -> TaskId {
    (key.stage.clone(), key.shard.clone())
}

/// The shards that were given up according to a view.
fn given_up(view: &RunView) -> BTreeMap<TaskId, String> {
    let stages = view.stages.iter();
    let shards = stages.flat_map(|stage| {
        let shards = stage.quarantined.iter();
        shards.map(|(shard, reason)| ((stage.stage.clone(), shard.clone()), reason.clone()))
    });
    shards.collect()
}

/// A view without the parts that are not written with it: leases, their progress, and the shards that
/// were given up.
fn stored(view: &RunView) -> RunView {
    let stages = view.stages.iter().map(|stage| StageView {
        leased: BTreeSet::new(),
        progress: BTreeMap::new(),
        quarantined: BTreeMap::new(),
        ..stage.clone()
    });
    RunView {
        stages: stages.collect(),
        ..view.clone()
    }
}

#[async_trait]
impl Database for InMemory {
    async fn known(&self) -> Result<Known, Error> {
        Ok(self.tables().known.clone())
    }

    async fn know(&self, known: &Known) -> Result<(), Error> {
        self.tables().known = known.clone();
        Ok(())
    }

    async fn load(&self) -> Result<Vec<Restored>, Error> {
        let tables = self.tables();
        let running = tables.runs.values();
        let running = running.filter(|rows| rows.view.state == v1::RunState::Running);
        let mut restored: Vec<Restored> = running
            .map(|rows| Restored {
                view: rows.view(),
                tasks: rows.open_tasks(),
            })
            .collect();
        restored.sort_by_key(|restored| restored.view.submitted_unix_ms);
        Ok(restored)
    }

    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        _now_unix_ms: i64,
    ) -> Result<(), Error> {
        let mut tables = self.tables();
        let newer = tables.known.generation;
        if newer != generation {
            let ours = generation;
            return Err(Error::Superseded { ours, newer });
        }
        ops.iter().for_each(|op| tables.apply(op));
        views.iter().for_each(|change| tables.show(change));
        Ok(())
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error> {
        let tables = self.tables();
        let mut views: Vec<RunView> = tables
            .runs
            .values()
            .map(|rows| RunView {
                stages: Vec::new(),
                ..rows.view.clone()
            })
            .collect();
        views.sort_by(|a, b| {
            let newest = b.submitted_unix_ms.cmp(&a.submitted_unix_ms);
            newest.then_with(|| a.run.cmp(&b.run))
        });
        views.truncate(limit as usize);
        Ok(views)
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error> {
        Ok(self.tables().runs.get(run).map(|rows| rows.view()))
    }

    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, Error> {
        let tables = self.tables();
        let json = |key: &&Key| {
            let (_, task) = tables.runs.get(&key.run)?.tasks.get(&task_id(key))?;
            Some(((*key).clone(), task.task_json.clone()))
        };
        Ok(keys.iter().filter_map(json).collect())
    }

    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error> {
        let tables = self.tables();
        let rows = tables.runs.get(run);
        Ok(rows.is_some_and(|rows| rows.listed.contains(stage)))
    }

    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, Error> {
        Ok(self.committed(shards).await?.len() as u64)
    }

    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, Error> {
        Ok(self.commits(shards).await?.into_keys().collect())
    }

    async fn commits(&self, shards: Shards<'_>) -> Result<BTreeMap<ShardId, Summary>, Error> {
        let id = |shard: &ShardId| (shards.stage.clone(), shard.clone());
        let (first, last) = (id(shards.first), id(shards.last));
        if first > last {
            return Ok(BTreeMap::new());
        }
        let tables = self.tables();
        let rows = tables.runs.get(shards.run).into_iter();
        let found = rows.flat_map(|rows| rows.commits.range(first.clone()..=last.clone()));
        let found = found.map(|((_, shard), commit)| (shard.clone(), commit.clone()));
        Ok(found.collect())
    }

    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error> {
        let tables = self.tables();
        let views = tables.runs.values().map(|rows| &rows.view);
        let has_ended =
            |view: &&RunView| view.state != v1::RunState::Running && view.ended_unix_ms < unix_ms;
        let mut ended: Vec<(i64, RunId)> = views
            .filter(has_ended)
            .map(|view| (view.ended_unix_ms, view.run.clone()))
            .collect();
        ended.sort();
        ended.truncate(limit as usize);
        Ok(ended.into_iter().map(|(_, run)| run).collect())
    }

    async fn close(&self) {}
}
