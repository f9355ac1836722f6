//! Assignment of ready tasks to the offers of workers.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use capstan_plan::FailureKind;
use capstan_plan::id::{AttemptId, DeviceKind, Digest, LeaseEpoch, WorkerId};
use capstan_plan::task::Role;

use super::gangs::Slots;
use super::queues::{Lane, RunNumber};
use super::task::{Held, Lease, Rank, Spec, State, Task, What, attempt_id};
use super::{Key, Machine, Now, Ordinal};

/// Number of the oldest ready tasks that are considered for one slot, over all runs. Considering stops
/// at the first task that this worker should not leave to others.
const LOOKAHEAD: usize = 256;
/// Minimum share of a run in the lookahead.
const LEAST_LOOKAHEAD: usize = 16;

/// A worker's request for tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The worker.
    pub worker: WorkerId,
    /// The roles of the tasks that it executes.
    pub roles: BTreeSet<Role>,
    /// The device kind that its models compute on.
    pub device: DeviceKind,
    /// Maximum number of tasks that it wants.
    pub slots: usize,
    /// Base files in its cache. Shared, because every beat reads a waiting offer.
    pub cached: Arc<BTreeSet<Digest>>,
}

/// A task that is leased to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Index of the offer.
    pub offer: usize,
    /// The task.
    pub key: Arc<Key>,
    /// The epoch of the lease.
    pub lease_epoch: LeaseEpoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank of this worker.
    pub rank: usize,
    /// Number of ranks that execute the task together.
    pub world_size: usize,
    /// Number of the attempt, from 1.
    pub attempt_number: u32,
}

impl Offer {
    /// Whether this worker can execute a task.
    pub(super) fn fits(&self, spec: &Spec) -> bool {
        spec.demand().is_met_by(&self.roles, &self.device)
    }
}

/// A slot of an offer, and the tasks that can fill it.
struct Choice<'a> {
    offer: &'a Offer,
    /// The lanes of these tasks.
    lanes: &'a [Lane],
    /// Only tasks older than this.
    before: Ordinal,
    now: Now,
}

impl Machine {
    /// Assigns tasks to offers, oldest offer first.
    ///
    /// - Gangs go first, and slots are reserved for them: see `gangs`.
    /// - Runs take turns: see `turns`. Within a run, the oldest task goes first.
    /// - A task whose base file a worker has cached goes to that worker before older tasks of the
    ///   run, and other workers leave it. Both last for a bounded time, so that no task starves
    ///   (delay scheduling: Zaharia et al., EuroSys 2010).
    /// - A worker without a ready task may get a second lease of a task that takes too long.
    pub fn assign(&mut self, offers: &[impl Borrow<Offer>], now: Now) -> Vec<Grant> {
        let offers: Vec<&Offer> = offers.iter().map(Borrow::borrow).collect();
        for offer in &offers {
            self.update_worker(offer, now);
        }
        let mut slots = Slots::new(&offers);
        let mut grants = self.assign_gangs(&offers, &mut slots, now);
        for (index, offer) in offers.iter().enumerate() {
            if slots.before(index).is_none() || !self.queues.any_ready() {
                continue;
            }
            let lanes = self.lanes_of(offer, now);
            while let Some(before) = slots.before(index) {
                let choice = Choice {
                    offer,
                    lanes: &lanes,
                    before,
                    now,
                };
                let Some(ordinal) = self.pick(&choice) else {
                    break;
                };
                slots.take(index);
                grants.extend(self.grant(ordinal, &[(index, &offer.worker)], now));
            }
        }
        self.assign_twins(&offers, &mut slots, &mut grants, now);
        grants
    }

    /// Records the offer of a worker and updates the index of cached files.
    fn update_worker(&mut self, offer: &Offer, now: Now) {
        let Some(before) = self.workers.update(offer, now) else {
            return;
        };
        for gone in before.difference(&offer.cached) {
            let tasks = self.readers(gone);
            self.caches.release(&offer.worker, gone, tasks);
        }
        for new in offer.cached.difference(&before) {
            let tasks = self.readers(new);
            self.caches.hold(&offer.worker, new, tasks);
        }
    }

    /// Ready tasks that read this base file.
    pub(super) fn readers(&self, base: &Digest) -> Vec<(RunNumber, Ordinal)> {
        let readers = self.caches.readers(base).filter_map(|ordinal| {
            let entry = self.entries.get(&ordinal)?;
            let is_reader = entry.task.spec.base.as_ref() == Some(base);
            is_reader.then_some((entry.route.run, ordinal))
        });
        readers.collect()
    }

    /// The lanes of the tasks that an offer may get now.
    fn lanes_of(&self, offer: &Offer, now: Now) -> Vec<Lane> {
        let is_ejected = |role: &Role| {
            let policy = &self.policy;
            self.workers.is_ejected(&offer.worker, *role, policy, now)
        };
        let roles = offer.roles.iter().filter(|role| !is_ejected(role));
        self.queues.lanes(roles, &offer.device)
    }

    /// The task for a slot, from the run whose turn it is. If that run has none for this worker, from
    /// the next run.
    fn pick(&mut self, choice: &Choice<'_>) -> Option<Ordinal> {
        let runs = self.queues.runs(choice.lanes);
        let share = LOOKAHEAD / runs.len().max(1);
        let share = share.max(LEAST_LOOKAHEAD);
        let mut runs = runs.into_iter();
        runs.find_map(|run| self.pick_from_run(run, share, choice))
    }

    /// The task of a run for a slot: the oldest, unless a later task's base file is cached.
    fn pick_from_run(
        &mut self,
        run: RunNumber,
        share: usize,
        choice: &Choice<'_>,
    ) -> Option<Ordinal> {
        let Choice { offer, now, .. } = *choice;
        let mut oldest = None;
        let mut passed_over: Vec<Ordinal> = Vec::new();
        let ready = self.queues.ready(run, choice.lanes);
        let ready = ready.take_while(|ordinal| *ordinal < choice.before);
        for ordinal in ready.take(share) {
            let task = &self.entries[&ordinal].task;
            if self.must_avoid(task, &offer.worker, now) {
                continue;
            }
            if self.should_wait_for_cache(ordinal, task, offer, now) {
                passed_over.push(ordinal);
                continue;
            }
            oldest = Some(ordinal);
            break;
        }
        let must_go_first =
            |oldest: Ordinal| self.has_cached(offer, oldest) || self.is_overdue(oldest, now);
        let overtaking = match oldest {
            Some(oldest) if must_go_first(oldest) => None,
            _ => self.near(run, choice),
        };
        if overtaking.is_some() {
            passed_over.extend(oldest);
        }
        for ordinal in passed_over {
            self.queues.pass_over(ordinal, now);
        }
        overtaking.or(oldest)
    }

    /// The oldest task of a run whose base file this worker has.
    fn near(&self, run: RunNumber, choice: &Choice<'_>) -> Option<Ordinal> {
        let worker = &choice.offer.worker;
        let near = self.caches.near(worker, run, choice.before);
        let mut near = near.take(LOOKAHEAD);
        near.find(|ordinal| {
            let entry = &self.entries[ordinal];
            let is_own = choice.lanes.contains(&entry.route.lane);
            is_own && !self.must_avoid(&entry.task, worker, choice.now)
        })
    }

    /// Whether to leave this task to another worker that has its base file cached. False once the
    /// task was passed over for the locality wait.
    fn should_wait_for_cache(
        &self,
        ordinal: Ordinal,
        task: &Task,
        offer: &Offer,
        now: Now,
    ) -> bool {
        let Some(base) = task.spec.base else {
            return false;
        };
        let can_take = |worker: &WorkerId| {
            let demand = task.spec.demand();
            worker != &offer.worker && self.workers.can_take(worker, demand, &self.policy, now)
        };
        !offer.cached.contains(&base)
            && !self.is_overdue(ordinal, now)
            && self.caches.holders(&base).any(can_take)
    }

    fn is_overdue(&self, ordinal: Ordinal, now: Now) -> bool {
        let since = self.queues.passed_over_since(ordinal, now);
        now.saturating_sub(since) >= self.policy.locality_wait
    }

    fn has_cached(&self, offer: &Offer, ordinal: Ordinal) -> bool {
        let base = self.entries[&ordinal].task.spec.base;
        base.is_some_and(|base| offer.cached.contains(&base))
    }

    /// Whether to leave a task to another live worker: this one failed it through a fault of its own,
    /// or the last attempts must be made on a second worker.
    fn must_avoid(&self, task: &Task, worker: &WorkerId, now: Now) -> bool {
        if !task.failed_on.contains(worker) {
            return false;
        }
        let is_own_fault = task.last_failure == Some(FailureKind::WorkerFault);
        let is_last = task.attempts + 1 >= self.policy.max_attempts && task.failed_on.len() < 2;
        (is_own_fault || is_last) && self.others_alive(task, now)
    }

    /// Leases a task. A task that is leased gets a second lease.
    pub(super) fn grant(
        &mut self,
        ordinal: Ordinal,
        members: &[(usize, &WorkerId)],
        now: Now,
    ) -> Vec<Grant> {
        let lease_epoch = self.next_epoch();
        let deadline = now + self.policy.lease;
        let rank = |(_, worker): &(usize, &WorkerId)| Rank {
            worker: (*worker).clone(),
            deadline,
            is_finished: false,
        };
        let Some(entry) = self.entries.get_mut(&ordinal) else {
            return Vec::new();
        };
        entry.task.attempts += 1;
        let lease = Lease {
            lease_epoch,
            number: entry.task.attempts,
            since: now,
            ranks: members.iter().map(rank).collect(),
        };
        let (key, attempt_number) = (entry.key.clone(), lease.number);
        self.queues.served(entry.route.run);
        self.queues.watch(ordinal, &lease);
        let state = match &entry.task.state {
            State::Leased(held) => {
                let Held { lease: first, .. } = (**held).clone();
                State::leased(first, Some(lease))
            }
            _ => State::leased(lease, None),
        };
        self.set(ordinal, state, What::Began(lease_epoch), "");
        let grant = |(rank, (offer, _)): (usize, &(usize, &WorkerId))| Grant {
            offer: *offer,
            key: key.clone(),
            lease_epoch,
            attempt: attempt_id(lease_epoch),
            rank,
            world_size: members.len(),
            attempt_number,
        };
        members.iter().enumerate().map(grant).collect()
    }
}
