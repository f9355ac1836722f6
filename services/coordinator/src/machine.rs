//! The task machine: which worker gets which task, and what becomes of it. Pure: no clock, no I/O.
//!
//! ```text
//!              backoff over            assign                 commit record stands
//!  Blocked ──────────────────► Ready ──────────► Leased ──────────────────────────► Committed
//!     ▲                          ▲ ▲               │ │ │ ▲
//!     │ retryable, attempt + 1   │ └─ given back ──┘ │ │ └─ one of two twins failed
//!     └──────────────────────────│── failed, expired ┘ │
//!                                │                     └─ BadInput, PoisonShard, Fatal,
//!                                │                        or no attempts left ─► Quarantined
//!                                └── an operator asks for it ◄───────────────────────┘
//!                                                         run ended ───────────► Cancelled
//! ```
//!
//! - Every lease has an epoch (generation, counter) that is never used again. An answer with another
//!   epoch is stale.
//! - A gang's task is leased to all of its ranks at once; one lost rank fails the attempt.
//! - A task that takes far longer than others of its stage may be leased a second time, to a twin. The
//!   first commit wins, and the other lease is stale.
//! - Runs share the slots of the workers (`turns`), and slots are kept for gangs (`gangs`).
//! - `now` is read from a monotonic clock of the caller. Nothing else decides when a lease expires.
//! - Each change goes to an outbox, from which the caller writes it to the database and reports it.
//! - No operation looks at all tasks: each state has an index (`queues`).

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
pub use given_up::{GivenUp, GivenUpShards};
pub use policy::Policy;
pub use task::{Change, Held, Key, Lease, Rank, Spec, State, Task, What, attempt_id};
pub use workers::Ejected;

/// Time since some fixed moment, by a monotonic clock.
pub type Now = Duration;

/// A task's place in the order of adding; lower is older.
type Ordinal = u64;

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The task is not known, or held under another epoch or by another worker.
    NotHeld,
    /// Its run was cancelled.
    Cancelled,
}

/// A lease as an answer names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The task.
    pub key: Key,
    /// Under which lease.
    pub lease_epoch: LeaseEpoch,
    /// Which rank of the gang; 0 for all but training.
    pub rank: usize,
    /// Who answers.
    pub worker: WorkerId,
}

/// An event for the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A worker fails too much and gets no lease for a while.
    Ejected(Ejected),
    /// A task that takes too long was leased a second time.
    Twin {
        /// The task.
        key: Arc<Key>,
        /// Who has it.
        first: Option<WorkerId>,
        /// Who has it as well.
        twin: WorkerId,
    },
}

/// Every task that is not forgotten, and the workers that were seen of late.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    /// The last epoch that was given out.
    last_epoch: LeaseEpoch,
    /// Boxed: a map of ascending keys is little more than half full.
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
    /// A machine without tasks, whose epochs are of `generation`.
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

    /// An epoch that was never used. Rings take theirs here too.
    pub fn next_epoch(&mut self) -> LeaseEpoch {
        self.last_epoch.counter += 1;
        self.last_epoch
    }

    /// A task by its key.
    pub fn task(&self, key: &Key) -> Option<&Task> {
        let ordinal = self.by_key.get(key)?;
        self.entries.get(ordinal).map(|entry| &entry.task)
    }

    /// Live workers of a role, of one kind of device where it matters.
    pub fn live_workers(&self, role: Role, device: Option<&DeviceKind>, now: Now) -> usize {
        let demand = Demand { role, device };
        self.workers.live(demand, &self.policy, now)
    }

    /// The most common kind of device among live workers of a role.
    pub fn common_device(&self, role: Role, now: Now) -> Option<DeviceKind> {
        self.workers.common_device(role, &self.policy, now)
    }

    /// Adds a task that waits for a worker. One that is known already stays as it is.
    pub fn add(&mut self, key: Key, spec: Spec) {
        if !self.by_key.contains_key(&key) {
            let ordinal = self.insert(key, Task::new(spec));
            self.note(ordinal, What::Added, "");
        }
    }

    /// Puts back a task as it was before a restart: a lease gets one full period.
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

    /// Puts a task where its state belongs.
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

    /// Takes a task from where it is, before its state changes.
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
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn heartbeat(&mut self, claim: &Claim, now: Now) -> Result<(), Stale> {
        self.workers.beats(&claim.worker, now);
        let deadline = now + self.policy.lease;
        self.rank_mut(claim)?.deadline = deadline;
        Ok(())
    }

    /// Whether this lease is still this worker's.
    ///
    /// # Errors
    /// [`Stale`] where it is not.
    pub fn check(&self, claim: &Claim) -> Result<&Lease, Stale> {
        let task = self.task(&claim.key).ok_or(Stale::NotHeld)?;
        if task.state == State::Cancelled {
            return Err(Stale::Cancelled);
        }
        let lease = task.held().and_then(|held| held.of(claim.lease_epoch));
        let is_own = |lease: &&Lease| {
            let rank = lease.ranks.get(claim.rank);
            rank.is_some_and(|rank| rank.worker == claim.worker)
        };
        lease.filter(is_own).ok_or(Stale::NotHeld)
    }

    /// Whether this lease is this worker's, and its work is not finished.
    pub fn works_on(&self, claim: &Claim) -> bool {
        let lease = self.check(claim);
        lease.is_ok_and(|lease| !lease.ranks[claim.rank].is_finished)
    }

    /// A commit record of this task stands in the store. It decides, whichever attempt made it, unless
    /// the task was given up before. True where the task is committed now.
    ///
    /// - `by`: the epoch in the record; a lease of it has done its work.
    pub fn committed(&mut self, key: &Key, by: LeaseEpoch, now: Now) -> bool {
        let Some((ordinal, task)) = self.find(key) else {
            return false;
        };
        match &task.state {
            State::Committed => true,
            State::Quarantined | State::Cancelled => false,
            State::Blocked { .. } | State::Ready | State::Leased(_) => {
                let winner = task.held().and_then(|held| held.of(by));
                let runtime = winner.map(|lease| now.saturating_sub(lease.since));
                let workers = winner.iter().flat_map(|lease| &lease.ranks);
                let workers: Vec<WorkerId> = workers.map(|rank| rank.worker.clone()).collect();
                self.stages.committed(key, runtime);
                for worker in workers {
                    self.workers.succeeded(&worker, now);
                }
                self.go(ordinal, State::Committed, "");
                // The change that was noted is all that is needed of it.
                self.stages.remove(key, ordinal);
                self.remove(ordinal);
                true
            }
        }
    }

    /// A rank other than the one that commits has done its part: it needs no heartbeat any more.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn rank_finished(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.rank_mut(claim)?.is_finished = true;
        if let Some((ordinal, _)) = self.find(&claim.key) {
            self.note(ordinal, What::RankFinished(claim.lease_epoch), "");
        }
        Ok(())
    }

    /// A lease could not be handed over: nothing was tried.
    pub fn undelivered(&mut self, key: &Key, lease_epoch: LeaseEpoch) {
        let Some((ordinal, task)) = self.find(key) else {
            return;
        };
        let Some(held) = task.held().filter(|held| held.of(lease_epoch).is_some()) else {
            return;
        };
        let state = held.clone().without(lease_epoch).unwrap_or(State::Ready);
        if let Some(entry) = self.entries.get_mut(&ordinal) {
            entry.task.attempts = entry.task.attempts.saturating_sub(1);
        }
        self.set(ordinal, state, What::TakenBack(lease_epoch), "given back");
    }

    /// A worker that stops gives its lease back: the attempt does not count. For a gang the whole
    /// lease goes back.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn release(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.check(claim)?;
        self.undelivered(&claim.key, claim.lease_epoch);
        Ok(())
    }

    /// Tries a task again that was given up, as if it never had been. True where it was.
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
        self.set(ordinal, State::Ready, What::Retried, "tried again");
        true
    }

    /// Ends leases whose time is over and lets go tasks whose backoff is over.
    ///
    /// Gives the tasks whose lease expired.
    pub fn tick(&mut self, now: Now) -> Vec<Key> {
        while let Some(ordinal) = self.queues.due(now) {
            self.go(ordinal, State::Ready, "");
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

    /// Extends every lease by `gap`, a time in which the caller received no heartbeats. Workers count
    /// as alive for as much longer.
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

    /// Ends every task of a run that is not final; the next heartbeat of a lease reports it.
    pub fn cancel(&mut self, run: &RunId) {
        for ordinal in self.stages.of_run(run) {
            if !self.entries[&ordinal].task.state.is_final() {
                self.go(ordinal, State::Cancelled, "");
            }
        }
    }

    /// Forgets every task of a run that has ended, and its shards that were given up.
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

    /// Notes how many tasks a step of a stage has, of which some may be added later.
    pub fn expect(&mut self, run: &RunId, stage: &StageName, tasks: u64) {
        self.stages.expect(run, stage, tasks as usize);
    }

    /// Forgets the tasks of a step of a stage that is over.
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

    /// Workers that get no leases now.
    pub fn ejected(&self, now: Now) -> usize {
        self.workers.ejected(now)
    }

    /// Takes the changes since they were taken last, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.outbox)
    }

    /// Takes the notices since they were taken last, in order.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn find(&self, key: &Key) -> Option<(Ordinal, &Task)> {
        let ordinal = *self.by_key.get(key)?;
        Some((ordinal, &self.entries.get(&ordinal)?.task))
    }

    /// The rank that a claim names, where it is its own.
    fn rank_mut(&mut self, claim: &Claim) -> Result<&mut Rank, Stale> {
        self.check(claim)?;
        let ordinal = self.by_key.get(&claim.key);
        let entry = ordinal.and_then(|ordinal| self.entries.get_mut(ordinal));
        match entry.map(|entry| &mut entry.task.state) {
            Some(State::Leased(held)) => {
                let lease = held.of_mut(claim.lease_epoch);
                let rank = lease.and_then(|lease| lease.ranks.get_mut(claim.rank));
                rank.ok_or(Stale::NotHeld)
            }
            _ => Err(Stale::NotHeld),
        }
    }

    /// Moves a task on; whatever leases it had are over.
    fn go(&mut self, ordinal: Ordinal, state: State, message: &str) {
        let held = self.entries.get(&ordinal).and_then(|e| e.task.held());
        let over = held.into_iter().flat_map(Held::leases);
        let over = over.map(|lease| lease.lease_epoch).collect();
        self.set(ordinal, state, What::Moved(over), message);
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
