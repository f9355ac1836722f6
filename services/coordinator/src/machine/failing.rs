//! Attempts that fail: reported by a worker, or expired without heartbeats.

use std::collections::BTreeMap;

use capstan_plan::FailureKind;
use capstan_plan::id::{LeaseEpoch, WorkerId};

use super::task::{Key, State, Task, What};
use super::{Claim, Machine, Notice, Now, Ordinal, Stale};

/// A failed attempt.
struct Failure<'a> {
    lease_epoch: LeaseEpoch,
    worker: &'a WorkerId,
    kind: FailureKind,
    message: &'a str,
}

impl Machine {
    /// Records a failed attempt. A fault of the worker itself is recorded even if another rank of its
    /// gang has reported a failure first.
    ///
    /// # Errors
    /// [`Stale`]: the lease is no longer this worker's. The failure does not count.
    pub fn fail(
        &mut self,
        claim: &Claim,
        kind: FailureKind,
        message: &str,
        now: Now,
    ) -> Result<(), Stale> {
        let is_own_fault = kind == FailureKind::WorkerFault;
        if let Some(ordinal) = self.by_key.get(&claim.key).filter(|_| is_own_fault) {
            self.workers.record_fault(&claim.worker, *ordinal, now);
        }
        let is_gang = self.check(claim)?.ranks.len() > 1;
        let Some((ordinal, _)) = self.find(&claim.key) else {
            return Err(Stale::NotHeld);
        };
        let failure = Failure {
            lease_epoch: claim.lease_epoch,
            worker: &claim.worker,
            kind,
            message,
        };
        self.attempt_failed(ordinal, &failure, now);
        if kind.is_retryable() && (!is_gang || is_own_fault) {
            self.blame(&claim.worker, ordinal, now);
        }
        Ok(())
    }

    /// Ends expired leases. Returns their tasks.
    pub(super) fn expire(&mut self, now: Now) -> Vec<Key> {
        let mut expired = Vec::new();
        // All leases that expire because a worker stopped heartbeating count as one failure.
        let mut silent: BTreeMap<WorkerId, Ordinal> = BTreeMap::new();
        while let Some((ordinal, lease_epoch)) = self.queues.overdue(now) {
            let Some(entry) = self.entries.get(&ordinal) else {
                continue;
            };
            let held = entry.task.held();
            let Some(lease) = held.and_then(|held| held.find(lease_epoch)) else {
                continue;
            };
            let Some((deadline, rank)) = lease.deadline() else {
                continue;
            };
            if deadline >= now {
                self.queues.watch(ordinal, lease);
                continue;
            }
            let (worker, is_gang) = (lease.ranks[rank].worker.clone(), lease.ranks.len() > 1);
            expired.push((*entry.key).clone());
            let message = format!("worker {worker} (rank {rank}) sent no heartbeat in time");
            let failure = Failure {
                lease_epoch,
                worker: &worker,
                kind: FailureKind::Transient,
                message: &message,
            };
            self.attempt_failed(ordinal, &failure, now);
            if !is_gang {
                silent.entry(worker).or_insert(ordinal);
            }
        }
        for (worker, ordinal) in silent {
            self.blame(&worker, ordinal, now);
        }
        expired
    }

    fn attempt_failed(&mut self, ordinal: Ordinal, failure: &Failure<'_>, now: Now) {
        let Some(entry) = self.entries.get_mut(&ordinal) else {
            return;
        };
        let task = &mut entry.task;
        task.failed_on.insert(failure.worker.clone());
        task.last_failure = Some(failure.kind);
        let held = task.held().cloned();
        let other = held.and_then(|held| held.without(failure.lease_epoch));
        let ended = What::Moved(vec![failure.lease_epoch]);
        match other {
            // The other of two leases stays, unless the task would fail on every worker.
            Some(state) if failure.kind.is_retryable() => {
                self.set(ordinal, state, ended, failure.message);
            }
            _ if self.must_give_up(ordinal, failure.kind, now) => {
                self.transition(ordinal, State::Quarantined, failure.message);
            }
            _ => {
                let backoff = self
                    .policy
                    .backoff_after(self.entries[&ordinal].task.attempts);
                let until = now + backoff;
                self.transition(ordinal, State::Blocked { until }, failure.message);
            }
        }
    }

    fn blame(&mut self, worker: &WorkerId, shard: Ordinal, now: Now) {
        let ejected = self
            .workers
            .record_failure(worker, shard, &self.policy, now);
        self.notices.extend(ejected.map(Notice::Ejected));
    }

    /// Whether to give a task up: its failure is not retryable, or `max_attempts` were made, on two
    /// workers if two are alive. After twice as many attempts it is given up in any case, so that
    /// every run ends.
    fn must_give_up(&self, ordinal: Ordinal, kind: FailureKind, now: Now) -> bool {
        let task = &self.entries[&ordinal].task;
        if !kind.is_retryable() || task.attempts >= self.policy.max_attempts * 2 {
            return true;
        }
        let others = self.others_alive(task, now);
        task.attempts >= self.policy.max_attempts && (task.failed_on.len() >= 2 || !others)
    }

    /// Whether a live worker could execute this task and has not failed it.
    pub(super) fn others_alive(&self, task: &Task, now: Now) -> bool {
        let demand = task.spec.demand();
        self.workers
            .others(demand, &task.failed_on, &self.policy, now)
    }
}
