//! The task machine: which task goes to whom, and what becomes of it. Pure: no clock, no I/O.
//!
//! ```text
//!              backoff over            assign                 commit record stands
//!  Blocked ──────────────────► Ready ──────────► Leased ──────────────────────────► Committed
//!     ▲                          ▲                 │ │ │
//!     │ retryable, attempt + 1   └─ not delivered ─┘ │ └─ BadInput, PoisonShard, Fatal,
//!     └───────────────────────── failed, expired ────┘    or no attempts left ─► Quarantined
//!                                                         run ended ───────────► Cancelled
//! ```
//!
//! - Every lease has an epoch (generation, counter) that is never used again; whoever answers
//!   with another epoch is stale.
//! - A gang's task is leased to all of its ranks at once; one lost rank fails the attempt.
//! - `now` is whatever monotonic clock the caller has; only it judges expiry.
//! - What changes is noted in an outbox, so that the caller can write it down and tell others.

mod assign;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capstan_plan::FailureKind;
use capstan_plan::id::{AttemptId, LeaseEpoch, RunId, WorkerId};
use capstan_plan::task::Role;

pub use assign::{Grant, Offer};
pub use task::{Change, Key, Lease, Rank, Spec, State, Task};

/// Time since some fixed moment, by a monotonic clock.
pub type Now = Duration;

/// When leases end and how often a task is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long a lease lives without a heartbeat.
    pub lease: Duration,
    /// Attempts before a task is given up.
    pub max_attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// Between two attempts at most.
    pub max_backoff: Duration,
}

impl Policy {
    fn backoff_after(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        (self.backoff * 2u32.pow(doublings)).min(self.max_backoff)
    }
}

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

/// Every task that is not forgotten, and the workers that were seen of late.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    /// The last epoch that was given out.
    last_epoch: LeaseEpoch,
    tasks: BTreeMap<Key, Task>,
    /// Tasks that are not final, in the order in which they were added.
    open: BTreeMap<u64, Key>,
    added: u64,
    workers: BTreeMap<WorkerId, Seen>,
    outbox: Vec<Change>,
}

/// When a worker was heard of last.
#[derive(Debug, Clone)]
struct Seen {
    at: Now,
    roles: BTreeSet<Role>,
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
            tasks: BTreeMap::new(),
            open: BTreeMap::new(),
            added: 0,
            workers: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    /// An epoch that nobody has. Rings take theirs here too.
    pub fn next_epoch(&mut self) -> LeaseEpoch {
        self.last_epoch.counter += 1;
        self.last_epoch
    }

    /// A task by its key.
    pub fn task(&self, key: &Key) -> Option<&Task> {
        self.tasks.get(key)
    }

    /// Adds a task that waits for a worker. One that is known already stays as it is.
    pub fn add(&mut self, key: Key, spec: Spec) {
        if !self.tasks.contains_key(&key) {
            self.insert(key.clone(), Task::new(spec));
            self.note(&key, "");
        }
    }

    /// Puts back a task as it was before a restart: a lease gets one full period.
    pub fn restore(&mut self, key: Key, mut task: Task, now: Now) {
        if let State::Leased(lease) = &mut task.state {
            lease.renew_all(now + self.policy.lease);
        }
        self.insert(key, task);
    }

    fn insert(&mut self, key: Key, mut task: Task) {
        self.added += 1;
        task.added = self.added;
        if !task.state.is_final() {
            self.open.insert(self.added, key.clone());
        }
        self.tasks.insert(key, task);
    }

    /// Renews a lease and takes down how far it is.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn heartbeat(&mut self, claim: &Claim, now: Now) -> Result<(), Stale> {
        self.see(&claim.worker, None, now);
        let deadline = now + self.policy.lease;
        self.held(claim)?.deadline = deadline;
        Ok(())
    }

    /// Whether this lease is still this worker's.
    ///
    /// # Errors
    /// [`Stale`] where it is not.
    pub fn check(&mut self, claim: &Claim) -> Result<&Lease, Stale> {
        self.held(claim)?;
        match &self.tasks[&claim.key].state {
            State::Leased(lease) => Ok(lease),
            _ => Err(Stale::NotHeld),
        }
    }

    /// A commit record of this task stands in the store. It decides, whoever made it, unless
    /// the task was given up before. True where the task is committed now.
    pub fn committed(&mut self, key: &Key) -> bool {
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        match task.state {
            State::Committed => true,
            State::Quarantined | State::Cancelled => false,
            State::Blocked { .. } | State::Ready | State::Leased(_) => {
                self.end(key, State::Committed, "");
                true
            }
        }
    }

    /// A rank other than the one that commits has done its part: it needs no heartbeat any more.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn rank_finished(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.held(claim)?.is_finished = true;
        self.note(&claim.key, "");
        Ok(())
    }

    /// An attempt failed.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's; the failure does not count then.
    pub fn fail(
        &mut self,
        claim: &Claim,
        kind: FailureKind,
        message: &str,
        now: Now,
    ) -> Result<(), Stale> {
        self.held(claim)?;
        self.attempt_failed(&claim.key, &claim.worker, kind, message, now);
        Ok(())
    }

    /// A lease could not be handed over: nothing was tried.
    pub fn undelivered(&mut self, key: &Key, lease_epoch: LeaseEpoch) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if matches!(&task.state, State::Leased(lease) if lease.lease_epoch == lease_epoch) {
            task.attempts -= 1;
            task.state = State::Ready;
            self.note(key, "not delivered");
        }
    }

    /// A worker that stops gives its lease back: the attempt does not count. For a gang the whole
    /// lease goes back.
    ///
    /// # Errors
    /// [`Stale`] where the lease is no longer this worker's.
    pub fn release(&mut self, claim: &Claim) -> Result<(), Stale> {
        self.held(claim)?;
        self.undelivered(&claim.key, claim.lease_epoch);
        Ok(())
    }

    /// Tries a task again that was given up, as if it never had been. True where it was.
    pub fn retry(&mut self, key: &Key) -> bool {
        match self.tasks.get_mut(key) {
            Some(task) if task.state == State::Quarantined => {
                (task.attempts, task.last_failure) = (0, None);
                task.failed_on.clear();
                task.state = State::Ready;
                let added = task.added;
                self.open.insert(added, key.clone());
                self.note(key, "tried again");
                true
            }
            _ => false,
        }
    }

    /// Ends leases whose time is over and lets go tasks whose backoff is over.
    ///
    /// Gives the tasks whose lease expired.
    pub fn tick(&mut self, now: Now) -> Vec<Key> {
        let mut due = Vec::new();
        let mut expired = Vec::new();
        for key in self.open.values() {
            match &self.tasks[key].state {
                State::Blocked { until } if *until <= now => due.push(key.clone()),
                State::Leased(lease) => {
                    if let Some(rank) = lease.expired(now) {
                        expired.push((key.clone(), lease.ranks[rank].worker.clone(), rank));
                    }
                }
                _ => {}
            }
        }
        for key in due {
            self.set(&key, State::Ready, "");
        }
        for (key, worker, rank) in &expired {
            let message = format!("worker {worker} (rank {rank}) was not heard of in time");
            self.attempt_failed(key, worker, FailureKind::Transient, &message, now);
        }
        let oldest = now.saturating_sub(self.policy.lease * 10);
        self.workers.retain(|_, seen| seen.at >= oldest);
        expired.into_iter().map(|(key, _, _)| key).collect()
    }

    /// Ends every task of a run that is not final; leases are told so by their next heartbeat.
    pub fn cancel(&mut self, run: &RunId) {
        let open: Vec<Key> = self
            .open
            .values()
            .filter(|key| &key.run == run)
            .cloned()
            .collect();
        for key in open {
            self.end(&key, State::Cancelled, "");
        }
    }

    /// Forgets every task of a run that has ended.
    pub fn forget(&mut self, run: &RunId) {
        self.tasks.retain(|key, _| &key.run != run);
        self.open.retain(|_, key| &key.run != run);
    }

    /// Takes the changes since they were taken last, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.outbox)
    }

    /// The rank that a claim names, where it is its own.
    fn held(&mut self, claim: &Claim) -> Result<&mut Rank, Stale> {
        let task = self.tasks.get_mut(&claim.key).ok_or(Stale::NotHeld)?;
        match &mut task.state {
            State::Cancelled => Err(Stale::Cancelled),
            State::Leased(lease) if lease.lease_epoch == claim.lease_epoch => {
                let rank = lease.ranks.get_mut(claim.rank).ok_or(Stale::NotHeld)?;
                if rank.worker == claim.worker {
                    Ok(rank)
                } else {
                    Err(Stale::NotHeld)
                }
            }
            _ => Err(Stale::NotHeld),
        }
    }

    fn attempt_failed(
        &mut self,
        key: &Key,
        worker: &WorkerId,
        kind: FailureKind,
        message: &str,
        now: Now,
    ) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        task.failed_on.insert(worker.clone());
        task.last_failure = Some(kind);
        let state = if self.is_hopeless(key, kind, now) {
            State::Quarantined
        } else {
            let attempts = self.tasks[key].attempts;
            State::Blocked {
                until: now + self.policy.backoff_after(attempts),
            }
        };
        if state.is_final() {
            self.end(key, state, message);
        } else {
            self.set(key, state, message);
        }
    }

    /// Whether a further attempt makes no sense: four were made, on two workers where two are
    /// alive. Twice as many are enough in any case, so that everything ends.
    fn is_hopeless(&self, key: &Key, kind: FailureKind, now: Now) -> bool {
        let task = &self.tasks[key];
        if !kind.is_retryable() || task.attempts >= self.policy.max_attempts * 2 {
            return true;
        }
        let others = self.others_alive(task, now);
        task.attempts >= self.policy.max_attempts && (task.failed_on.len() >= 2 || !others)
    }

    /// Whether a worker is alive that could take this task and has not failed it.
    fn others_alive(&self, task: &Task, now: Now) -> bool {
        let alive = now.saturating_sub(self.policy.lease);
        self.workers.iter().any(|(worker, seen)| {
            seen.at >= alive
                && seen.roles.contains(&task.spec.role)
                && !task.failed_on.contains(worker)
        })
    }

    fn see(&mut self, worker: &WorkerId, roles: Option<&BTreeSet<Role>>, now: Now) {
        match (self.workers.get_mut(worker), roles) {
            (Some(seen), roles) => {
                seen.at = now;
                if let Some(roles) = roles {
                    seen.roles.clone_from(roles);
                }
            }
            (None, Some(roles)) => {
                self.workers.insert(
                    worker.clone(),
                    Seen {
                        at: now,
                        roles: roles.clone(),
                    },
                );
            }
            (None, None) => {}
        }
    }

    fn set(&mut self, key: &Key, state: State, message: &str) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.last_worker = task.holder().or(task.last_worker.take());
            task.state = state;
            self.note(key, message);
        }
    }

    fn end(&mut self, key: &Key, state: State, message: &str) {
        self.set(key, state, message);
        if let Some(task) = self.tasks.get(key) {
            self.open.remove(&task.added);
        }
    }

    fn note(&mut self, key: &Key, message: &str) {
        let task = &self.tasks[key];
        self.outbox.push(Change {
            key: key.clone(),
            task: task.clone(),
            message: message.to_owned(),
        });
    }
}

/// The attempt of this epoch: epochs are used once in a store, so attempts are unique in it.
pub fn attempt_id(lease_epoch: LeaseEpoch) -> AttemptId {
    AttemptId(format!(
        "{:06}-{:08}",
        lease_epoch.generation, lease_epoch.counter
    ))
}
