//! The task machine: assigns tasks to workers and tracks their state. Pure: no clock, no I/O.
//!
//! ```text
//!            backoff is over          assign              commit record exists
//!  Blocked ──────────────────► Ready ──────────► Leased ──────────────────────────► Committed
//!     ▲                          ▲ ▲               │ │ │ ▲
//!     │ retryable, attempt + 1   │ └── released ───┘ │ │ └─ one of two leases failed
//!     └──────────────────────────│── failed, expired ┘ │
//!                                │                     └─ BadInput, PoisonShard, Fatal,
//!                                │                        or no attempts left ─► Quarantined
//!                                └── an operator retries it ◄────────────────────────┘
//!                                                         run ended ───────────► Cancelled
//! ```
//!
//! - Every lease has an epoch (generation, counter) that is never used again. A report with another
//!   epoch is stale.
//! - A gang's task is leased to all of its ranks at once; one lost rank fails the attempt.
//! - A task that takes far longer than others of its stage may get a second, speculative lease: its
//!   twin. The first commit wins, and the other lease becomes stale.
//! - Runs share the slots of the workers (`turns`), and slots are reserved for gangs (`gangs`).
//! - `now` comes from a monotonic clock of the caller. Leases expire by this clock alone.
//! - Each change goes to an outbox. The caller writes it to the database and publishes it.
//! - No operation scans all tasks: each state has an index (`queues`).

mod assign;
mod caches;
mod failing;
mod gangs;
mod given_up;
mod policy;
mod queues;
mod stages;
mod task;
#[cfg(test)]
mod tests;
mod turns;
mod twins;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use capstan_plan::id::{DeviceKind, LeaseEpoch, RunId, StageName, WorkerId};
use capstan_plan::task::Role;

use self::caches::Caches;
use self::given_up::GivenUpByRun;
use self::queues::{Queues, Route};
use self::stages::Stages;
use self::task::Demand;
use self::workers::Workers;

pub use assign::{Grant, Offer};
pub use given_up::GivenUp;
pub use policy::Policy;
pub use task::{Change, Held, Key, Lease, Rank, Spec, State, Task, What, attempt_id};
pub use workers::Ejected;

/// Time since a fixed moment, by a monotonic clock.
pub type Now = Duration;

/// A task's position in the order of insertion; lower is older.
type Ordinal = u64;

/// Why a report was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The task is unknown, or leased under another epoch or to another worker.
    NotHeld,
    /// The run was cancelled.
    Cancelled,
}

/// A lease as the caller of a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The task.
    pub key: Key,
    /// The epoch of the lease.
    pub lease_epoch: LeaseEpoch,
    /// The rank in the gang; 0 for every task but training.
    pub rank: usize,
    /// The worker that sent the request.
    pub worker: WorkerId,
}

/// An event for the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A worker failed too many shards and gets no lease for a period.
    Ejected(Ejected),
    /// A task that takes too long got a second lease.
    Twin {
        /// The task.
        key: Arc<Key>,
        /// The worker of the first lease.
        first: Option<WorkerId>,
        /// The worker of the second lease.
        twin: WorkerId,
    },
}

/// The tasks of running runs, and the workers that were seen recently.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    /// The last epoch that was used.
    last_epoch: LeaseEpoch,
    /// Boxed, because the nodes of a map with ascending keys are little more than half full.
    entries: BTreeMap<Ordinal, Box<Entry>>,
    by_key: HashMap<Arc<Key>, Ordinal>,
    added: Ordinal,
    queues: Queues,
    caches: Caches,
    stages: Stages,
    given_up: GivenUpByRun,
    workers: Workers,
    outbox: Vec<Change>,
    notices: Vec<Notice>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<Key>,
    route: Route,
    task: Task,
}

impl Machine {
    /// A machine without tasks, for a new generation.
    pub fn new(policy: Policy, generation: u64) -> Self {
        Self {
            policy,
            last_epoch: LeaseEpoch {
                generation,
                counter: 0,
            },
            entries: BTreeMap::new(),
            by_key: HashMap::new(),
            added: 0,
            queues: Queues::default(),
            caches: Caches::default(),
            stages: Stages::default(),
            given_up: GivenUpByRun::default(),
            workers: Workers::default(),
            outbox: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Returns a new epoch. Rings use these too.
    pub fn next_epoch(&mut self) -> LeaseEpoch {
        self.last_epoch.counter += 1;
        self.last_epoch
    }

    /// A task by its key.
    pub fn task(&self, key: &Key) -> Option<&Task> {
        let ordinal = self.by_key.get(key)?;
        self.entries.get(ordinal).map(|entry| &entry.task)
    }

    /// Number of live workers of a role, and of a device kind unless it is `None`.
    pub fn live_workers(&self, role: Role, device: Option<&DeviceKind>, now: Now) -> usize {
        let demand = Demand { role, device };
        self.workers.live(demand, &self.policy, now)
    }

    /// The most common device kind among live workers of a role.
    pub fn common_device(&self, role: Role, now: Now) -> Option<DeviceKind> {
        self.workers.common_device(role, &self.policy, now)
    }

    /// Adds a ready task. A known task stays unchanged.
    pub fn add(&mut self, key: Key, spec: Spec) {
        if !self.by_key.contains_key(&key) {
            let ordinal = self.insert(key, Task::new(spec));
            self.note(ordinal, What::Added, "");
        }
    }

    /// Restores a task after a restart. Its leases are valid for one lease period from `now`.
    pub fn restore(&mut self, key: Key, mut task: Task, now: Now) {
        if let State::Leased(held) = &mut task.state {
            held.renew_all(now, now + self.policy.lease);
        }
        self.insert(key, task);
    }

    fn insert(&mut self, mut key: Key, mut task: Task) -> Ordinal {
        self.added += 1;
        self.stages.share_names(&mut key);
        let (ordinal, key) = (self.added, Arc::new(key));
        let run = self.stages.add(&key, ordinal);
        for lease in task.held().into_iter().flat_map(Held::leases) {
            self.queues.watch(ordinal, lease);
        }
        let route = self.queues.route(run, &mut task.spec);
        self.by_key.insert(key.clone(), ordinal);
        let entry = Box::new(Entry { key, route, task });
        self.entries.insert(ordinal, entry);
        self.enter(ordinal);
        ordinal
    }

    /// Adds a task to the indexes of its state.
    fn enter(&mut self, ordinal: Ordinal) {
        let Some(entry) = self.entries.get(&ordinal) else {
            return;
        };
        let (route, task) = (entry.route, &entry.task);
        self.queues.enter(ordinal, route, &task.state);
        if let (State::Ready, Some(base), false) = (&task.state, &task.spec.base, route.is_gang) {
            self.caches.enter(base, route.run, ordinal);
        }
    }

    /// Removes a task from the indexes of its state, before the state changes.
    fn leave(&mut self, ordinal: Ordinal) {
        let Some(entry) = self.entries.get(&ordinal) else {
            return;
        };
        let (route, task) = (entry.route, &entry.task);
        self.queues.leave(ordinal, route, &task.state);
        if let (State::Ready, Some(base), false) = (&task.state, &task.spec.base, route.is_gang) {
            self.caches.leave(base, route.run, ordinal);
        }
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// [`Stale`]: the lease is no longer this worker's.
    pub fn heartbeat(&mut self, claim: &Claim, now: Now) -> Result<(), Stale> {
        self.workers.heard(&claim.worker, now);
        let deadline = now + self.policy.lease;
        self.rank_mut(claim)?.deadline = deadline;
        Ok(())
    }

    /// Returns the lease if it is still this worker's.
    ///
    /// # Errors
    /// [`Stale`]: it is not.
    pub fn check(&self, claim: &Claim) -> Result<&Lease, Stale> {
        let task = self.task(&claim.key).ok_or(Stale::NotHeld)?;
        if task.state == State::Cancelled {
            return Err(Stale::Cancelled);
        }
        let lease = task.held().and_then(|held| held.find(claim.lease_epoch));
        let is_own = |lease: &&Lease| {
            let rank = lease.ranks.get(claim.rank);
            rank.is_some_and(|rank| rank.worker == claim.worker)
        };
        lease.filter(is_own).ok_or(Stale::NotHeld)
    }

    /// Whether the lease is still this worker's, and its rank is unfinished.
    pub fn works_on(&self, claim: &Claim) -> bool {
        let lease = self.check(claim);
        lease.is_ok_and(|lease| !lease.ranks[claim.rank].is_finished)
    }

    /// Records that the store has a commit record of this task. The record decides, whichever attempt
    /// wrote it, unless the task was given up before. Returns whether the task is committed now.
    ///
    /// - `by`: the epoch in the record. Its workers get the credit.
    pub fn committed(&mut self, key: &Key, by: LeaseEpoch, now: Now) -> bool {
        let Some((ordinal, task)) = self.find(key) else {
            return false;
        };
        match &task.state {
            State::Committed => true,
            State::Quarantined | State::Cancelled => false,
            State::Blocked { .. } | State::Ready | State::Leased(_) => {
                let winner = task.held().and_then(|held| held.find(by));
                let runtime = winner.map(|lease| now.saturating_sub(lease.since));
                let workers = winner.iter().flat_map(|lease| &lease.ranks);
                let workers: Vec<WorkerId> = workers.map(|rank| rank.worker.clone()).collect();
                self.stages.committed(key, runtime);
                for worker in workers {
                    self.workers.record_commit(&worker, now);
                }
                self.transition(ordinal, State::Committed, "");
                // A committed task needs no entry; the outbox has the change.
                self.stages.remove(key, ordinal);
                self.remove(ordinal);
                true
            }
        }
    }

    /// Records that a rank other than 0 has finished. It no longer needs to send heartbeats.
    ///
    /// # Errors
    /// [`Stale`]: the lease is no longer this worker's.
    pub fn rank_finished(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.rank_mut(claim)?.is_finished = true;
        if let Some((ordinal, _)) = self.find(&claim.key) {
            self.note(ordinal, What::RankFinished(claim.lease_epoch), "");
        }
        Ok(())
    }

    /// Ends a lease that the worker did not receive. The attempt does not count.
    pub fn undelivered(&mut self, key: &Key, lease_epoch: LeaseEpoch) {
        let Some((ordinal, task)) = self.find(key) else {
            return;
        };
        let Some(held) = task.held().filter(|held| held.find(lease_epoch).is_some()) else {
            return;
        };
        let state = held.clone().without(lease_epoch).unwrap_or(State::Ready);
        if let Some(entry) = self.entries.get_mut(&ordinal) {
            entry.task.attempts = entry.task.attempts.saturating_sub(1);
        }
        self.set(ordinal, state, What::TakenBack(lease_epoch), "released");
    }

    /// Releases the lease of a worker that stops. The attempt does not count. For a gang, the lease
    /// of all ranks ends.
    ///
    /// # Errors
    /// [`Stale`]: the lease is no longer this worker's.
    pub fn release(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.check(claim)?;
        self.undelivered(&claim.key, claim.lease_epoch);
        Ok(())
    }

    /// Makes a task that was given up ready again, with no attempts. Returns false if it was not given
    /// up.
    pub fn retry(&mut self, key: &Key) -> bool {
        let Some((ordinal, task)) = self.find(key) else {
            return false;
        };
        if task.state != State::Quarantined {
            return false;
        }
        if let Some(entry) = self.entries.get_mut(&ordinal) {
            entry.task = Task {
                last_worker: entry.task.last_worker.take(),
                state: State::Quarantined,
                ..Task::new(entry.task.spec.clone())
            };
        }
        self.set(ordinal, State::Ready, What::Retried, "retried");
        true
    }

    /// Ends leases that expired, and makes tasks ready whose backoff is over.
    ///
    /// Returns the tasks of the expired leases.
    pub fn tick(&mut self, now: Now) -> Vec<Key> {
        while let Some(ordinal) = self.queues.due(now) {
            self.transition(ordinal, State::Ready, "");
        }
        let expired = self.expire(now);
        for (worker, cached) in self.workers.forget(&self.policy, now) {
            for base in cached.iter() {
                let tasks = self.readers(base);
                self.caches.release(&worker, base, tasks);
            }
        }
        expired
    }

    /// Extends every lease by `gap`, a time in which the caller received no heartbeats. Workers also
    /// count as alive for that much longer.
    pub fn postpone(&mut self, gap: Duration) {
        for ordinal in self.queues.leased() {
            if let Some(entry) = self.entries.get_mut(&ordinal)
                && let State::Leased(held) = &mut entry.task.state
            {
                held.postpone(gap);
            }
        }
        self.workers.postpone(gap);
    }

    /// Cancels every unfinished task of a run. Workers learn of it with their next heartbeat.
    pub fn cancel(&mut self, run: &RunId) {
        for ordinal in self.stages.tasks_of_run(run) {
            if !self.entries[&ordinal].task.state.is_final() {
                self.transition(ordinal, State::Cancelled, "");
            }
        }
    }

    /// Removes the tasks of a run that has ended, and its shards that were given up.
    pub fn forget(&mut self, run: &RunId) {
        self.given_up.forget(run);
        let Some((number, ordinals)) = self.stages.forget(run) else {
            return;
        };
        for ordinal in ordinals {
            self.remove(ordinal);
        }
        self.queues.forget(number);
    }

    /// Sets the number of tasks of a stage's step. Some may be added later.
    pub fn expect(&mut self, run: &RunId, stage: &StageName, tasks: u64) {
        self.stages.expect(run, stage, tasks as usize);
    }

    /// Removes the tasks of a finished step of a stage.
    pub fn forget_step(&mut self, run: &RunId, stage: &StageName) {
        for ordinal in self.stages.forget_stage(run, stage) {
            self.remove(ordinal);
        }
    }

    fn remove(&mut self, ordinal: Ordinal) {
        self.leave(ordinal);
        if let Some(entry) = self.entries.remove(&ordinal) {
            self.by_key.remove(&entry.key);
        }
    }

    /// Number of workers that are ejected.
    pub fn ejected(&self, now: Now) -> usize {
        self.workers.ejected(now)
    }

    /// Takes the changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.outbox)
    }

    /// Takes the notices since the last call, in order.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn find(&self, key: &Key) -> Option<(Ordinal, &Task)> {
        let ordinal = *self.by_key.get(key)?;
        Some((ordinal, &self.entries.get(&ordinal)?.task))
    }

    /// The rank of a claim.
    fn rank_mut(&mut self, claim: &Claim) -> Result<&mut Rank, Stale> {
        self.check(claim)?;
        let ordinal = self.by_key.get(&claim.key);
        let entry = ordinal.and_then(|ordinal| self.entries.get_mut(ordinal));
        match entry.map(|entry| &mut entry.task.state) {
            Some(State::Leased(held)) => {
                let lease = held.find_mut(claim.lease_epoch);
                let rank = lease.and_then(|lease| lease.ranks.get_mut(claim.rank));
                rank.ok_or(Stale::NotHeld)
            }
            _ => Err(Stale::NotHeld),
        }
    }

    /// Sets the state of a task and ends all of its leases.
    fn transition(&mut self, ordinal: Ordinal, state: State, message: &str) {
        let held = self.entries.get(&ordinal).and_then(|e| e.task.held());
        let ended = held.into_iter().flat_map(Held::leases);
        let ended = ended.map(|lease| lease.lease_epoch).collect();
        self.set(ordinal, state, What::Moved(ended), message);
    }

    fn set(&mut self, ordinal: Ordinal, state: State, what: What, message: &str) {
        self.leave(ordinal);
        let Some(entry) = self.entries.get_mut(&ordinal) else {
            return;
        };
        let task = &mut entry.task;
        if let Some(holder) = task.holder().cloned() {
            task.last_worker = Some(holder);
        }
        let was_given_up = task.state == State::Quarantined;
        task.state = state;
        if was_given_up || task.state == State::Quarantined {
            self.given_up.moved(&entry.key, task, message);
        }
        self.enter(ordinal);
        self.note(ordinal, what, message);
    }

    fn note(&mut self, ordinal: Ordinal, what: What, message: &str) {
        let entry = &self.entries[&ordinal];
        self.outbox.push(Change {
            key: entry.key.clone(),
            task: entry.task.clone(),
            what,
            message: message.to_owned(),
        });
    }
}
