//! Attempts that come to nothing: failed by their worker, or ended by its silence.

use std::collections::BTreeMap;

use capstan_plan::FailureKind;
use capstan_plan::id::{LeaseEpoch, WorkerId};

use super::task::{Key, State, Task, What};
use super::{Claim, Machine, Notice, Now, Ordinal, Stale};

/// An attempt that came to nothing.
struct Failure<'a> {
    lease_epoch: LeaseEpoch,
    worker: &'a WorkerId,
    kind: FailureKind,
    message: &'a str,
}

impl Machine {
    /// An attempt failed. A worker that fails through a fault of its own is remembered with the task
    /// even where another rank of its gang has reported first.
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
        let is_own_fault = kind == FailureKind::WorkerFault;
        if let Some(ordinal) = self.by_key.get(&claim.key).filter(|_| is_own_fault) {
            self.workers.at_fault(&claim.worker, *ordinal, now);
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

    /// Ends leases whose time is over. Gives their tasks.
    pub(super) fn expire(&mut self, now: Now) -> Vec<Key> {
        let mut expired = Vec::new();
        // What a worker loses by one silence has one cause.
        let mut silent: BTreeMap<WorkerId, Ordinal> = BTreeMap::new();
        while let Some((ordinal, lease_epoch)) = self.queues.overdue(now) {
            let Some(entry) = self.entries.get(&ordinal) else {
                continue;
            };
            let held = entry.task.held();
            let Some(lease) = held.and_then(|held| held.of(lease_epoch)) else {
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
        let over = What::Moved(vec![failure.lease_epoch]);
        match other {
            // The other one of two twins goes on, unless the task fails on every worker.
            Some(state) if failure.kind.is_retryable() => {
                self.set(ordinal, state, over, failure.message);
            }
            _ if self.is_hopeless(ordinal, failure.kind, now) => {
                self.go(ordinal, State::Quarantined, failure.message);
            }
            _ => {
                let backoff = self
                    .policy
                    .backoff_after(self.entries[&ordinal].task.attempts);
                let until = now + backoff;
                self.go(ordinal, State::Blocked { until }, failure.message);
            }
        }
    }

    fn blame(&mut self, worker: &WorkerId, shard: Ordinal, now: Now) {
        let ejected = self.workers.failed(worker, shard, &self.policy, now);
        self.notices.extend(ejected.map(Notice::Ejected));
    }

    /// Whether a further attempt makes no sense: four were made, on two workers where two are
    /// alive. Twice as many are enough in any case, so that everything ends.
    fn is_hopeless(&self, ordinal: Ordinal, kind: FailureKind, now: Now) -> bool {
        let task = &self.entries[&ordinal].task;
        if !kind.is_retryable() || task.attempts >= self.policy.max_attempts * 2 {
            return true;
        }
        let others = self.others_alive(task, now);
        task.attempts >= self.policy.max_attempts && (task.failed_on.len() >= 2 || !others)
    }

    /// Whether a worker is there that could take this task and has not failed it.
    pub(super) fn others_alive(&self, task: &Task, now: Now) -> bool {
        let demand = task.spec.demand();
        self.workers
            .others(demand, &task.failed_on, &self.policy, now)
    }
}
