//! Who gets what: offers of workers against tasks that wait.

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

/// Tasks that are looked at for one slot, the oldest of each run, the runs together. All but those
/// that this worker should leave to others are taken at once.
const LOOKAHEAD: usize = 256;
/// The least share of a run in them.
const LEAST_LOOKAHEAD: usize = 16;

/// A worker that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The worker.
    pub worker: WorkerId,
    /// What it can take.
    pub roles: BTreeSet<Role>,
    /// What its models compute on.
    pub device: DeviceKind,
    /// Tasks that it wants at most.
    pub slots: usize,
    /// Base files in its cache. Shared: an offer that waits is looked at by every beat.
    pub cached: Arc<BTreeSet<Digest>>,
}

/// A task for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Index of the offer.
    pub offer: usize,
    /// The task.
    pub key: Arc<Key>,
    /// Under which lease.
    pub lease_epoch: LeaseEpoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// This worker's rank.
    pub rank: usize,
    /// Ranks that hold the task together.
    pub world_size: usize,
    /// Which try this is, from 1.
    pub attempt_number: u32,
}

impl Offer {
    /// Whether this worker can take a task.
    pub(super) fn fits(&self, spec: &Spec) -> bool {
        spec.demand().is_met_by(&self.roles, &self.device)
    }
}

/// What a worker is offered tasks from.
struct Choice<'a> {
    offer: &'a Offer,
    /// Those that it may take tasks from now.
    lanes: &'a [Lane],
    /// Only older tasks than this.
    before: Ordinal,
    now: Now,
}

impl Machine {
    /// Serves offers, the oldest first.
    ///
    /// - Gangs go first, and slots are kept for them: see `gangs`.
    /// - Runs take turns: see `turns`. Within a run the oldest task goes first.
    /// - A task whose base file a worker has cached goes to it before older ones of its run, and
    ///   other workers leave it alone: both for a bounded time, so that nothing starves (delay
    ///   scheduling: Zaharia et al., EuroSys 2010).
    /// - A worker for which nothing is left may get a twin of a task that takes far too long.
    pub fn assign(&mut self, offers: &[impl Borrow<Offer>], now: Now) -> Vec<Grant> {
        let offers: Vec<&Offer> = offers.iter().map(Borrow::borrow).collect();
        for offer in &offers {
            self.see(offer, now);
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

    /// Notes what a worker that asks for work is, and what it has cached.
    fn see(&mut self, offer: &Offer, now: Now) {
        let Some(before) = self.workers.offers(offer, now) else {
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

    /// The lanes of an offer that it may take tasks from now.
    fn lanes_of(&self, offer: &Offer, now: Now) -> Vec<Lane> {
        let is_ejected = |role: &Role| {
            let policy = &self.policy;
            self.workers.is_ejected(&offer.worker, *role, policy, now)
        };
        let roles = offer.roles.iter().filter(|role| !is_ejected(role));
        self.queues.lanes(roles, &offer.device)
    }

    /// The task that a slot gets: of the run whose turn it is, or of the next one if that run has
    /// none for this worker.
    fn pick(&mut self, choice: &Choice<'_>) -> Option<Ordinal> {
        let runs = self.queues.runs(choice.lanes);
        let share = LOOKAHEAD / runs.len().max(1);
        let share = share.max(LEAST_LOOKAHEAD);
        let mut runs = runs.into_iter();
        runs.find_map(|run| self.pick_of(run, share, choice))
    }

    /// The task of a run that a slot gets: the oldest, unless a cache speaks for another one.
    fn pick_of(&mut self, run: RunNumber, share: usize, choice: &Choice<'_>) -> Option<Ordinal> {
        let Choice { offer, now, .. } = *choice;
        let mut oldest = None;
        let mut left: Vec<Ordinal> = Vec::new();
        let ready = self.queues.ready(run, choice.lanes);
        let ready = ready.take_while(|ordinal| *ordinal < choice.before);
        for ordinal in ready.take(share) {
            let task = &self.entries[&ordinal].task;
            if self.must_avoid(task, &offer.worker, now) {
                continue;
            }
            if self.is_better_off_elsewhere(ordinal, task, offer, now) {
                left.push(ordinal);
                continue;
            }
            oldest = Some(ordinal);
            break;
        }
        let is_settled =
            |oldest: Ordinal| self.has_cached(offer, oldest) || self.is_overdue(oldest, now);
        let overtaking = match oldest {
            Some(oldest) if is_settled(oldest) => None,
            _ => self.near(run, choice),
        };
        if overtaking.is_some() {
            left.extend(oldest);
        }
        for ordinal in left {
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

    /// Whether another worker has the base file of this task and this one has not, for as long as
    /// it is worth waiting for that one.
    fn is_better_off_elsewhere(
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

    /// Whether this worker should leave a task to another one that is alive: it failed the task
    /// through a fault of its own, or the last attempts are to be made elsewhere.
    fn must_avoid(&self, task: &Task, worker: &WorkerId, now: Now) -> bool {
        if !task.failed_on.contains(worker) {
            return false;
        }
        let is_own_fault = task.last_failure == Some(FailureKind::WorkerFault);
        let is_last = task.attempts + 1 >= self.policy.max_attempts && task.failed_on.len() < 2;
        (is_own_fault || is_last) && self.others_alive(task, now)
    }

    /// Leases a task; one that is leased already gets its twin.
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
