//! Who gets what: offers of workers against tasks that wait.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use capstan_plan::FailureKind;
use capstan_plan::id::{AttemptId, DeviceKind, Digest, LeaseEpoch, WorkerId};
use capstan_plan::task::Role;

use super::queues::Lane;
use super::task::{Held, Lease, Rank, Spec, State, Task, What, attempt_id};
use super::{Key, Machine, Notice, Now, Ordinal};

/// Tasks that are looked at for one offer, the oldest first. All but those that this worker
/// should leave to others are taken at once, so more are never needed.
const LOOKAHEAD: usize = 256;

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
    /// The lanes of these roles that this worker takes tasks from.
    fn lanes<'a>(&self, roles: impl IntoIterator<Item = &'a Role>) -> Vec<Lane> {
        let lanes = roles
            .into_iter()
            .flat_map(|role| [(*role, None), (*role, Some(self.device.clone()))]);
        lanes.collect()
    }

    /// Whether this worker can take a task: it has the role and, where it matters, the device.
    fn fits(&self, spec: &Spec) -> bool {
        let is_device = spec.device.as_ref().is_none_or(|kind| kind == &self.device);
        is_device && self.roles.contains(&spec.role)
    }
}

impl Machine {
    /// Serves offers, the oldest first, with tasks, the oldest first.
    ///
    /// - A gang's task is granted to all of its ranks or not at all, each to another worker. Workers
    ///   that failed it through a fault of their own, or are ejected, take part only where too few
    ///   others are alive.
    /// - A task whose base file a worker has cached goes to it before older ones, and other
    ///   workers leave it alone: both for a bounded time, so that nothing starves (delay
    ///   scheduling: Zaharia et al., EuroSys 2010).
    /// - A worker for whom nothing is left may get a twin of a task that takes far too long.
    pub fn assign(&mut self, offers: &[impl Borrow<Offer>], now: Now) -> Vec<Grant> {
        let offers: Vec<&Offer> = offers.iter().map(Borrow::borrow).collect();
        for offer in &offers {
            let (roles, cached) = (&offer.roles, &offer.cached);
            self.workers
                .offers(&offer.worker, roles, &offer.device, cached, now);
        }
        let mut slots: Vec<usize> = offers.iter().map(|offer| offer.slots).collect();
        let mut grants = self.assign_gangs(&offers, &mut slots, now);
        for (index, offer) in offers.iter().enumerate() {
            if slots[index] == 0 || !self.queues.any_ready() {
                continue;
            }
            let lanes = offer.lanes(&self.roles_of(offer, now));
            while slots[index] > 0 {
                let Some(ordinal) = self.pick(offer, &lanes, now) else {
                    break;
                };
                slots[index] -= 1;
                grants.extend(self.grant(ordinal, &[(index, &offer.worker)], now));
            }
        }
        self.assign_twins(&offers, &mut slots, &mut grants, now);
        grants
    }

    fn assign_gangs(&mut self, offers: &[&Offer], slots: &mut [usize], now: Now) -> Vec<Grant> {
        let mut grants = Vec::new();
        for ordinal in self.queues.gangs() {
            let spec = &self.entries[&ordinal].task.spec;
            let is_suspect = |worker: &WorkerId| {
                let policy = &self.policy;
                self.workers.is_suspect(worker, ordinal, policy, now)
            };
            let mut members: Vec<(usize, &WorkerId)> = Vec::new();
            let mut suspects: Vec<(usize, &WorkerId)> = Vec::new();
            for (index, offer) in offers.iter().enumerate() {
                let is_free = slots[index] > 0 && offer.fits(spec);
                let mut chosen = members.iter().chain(&suspects);
                let is_new = chosen.all(|(_, worker)| *worker != &offer.worker);
                match is_suspect(&offer.worker) {
                    _ if !is_free || !is_new || members.len() == spec.world_size => {}
                    true => suspects.push((index, &offer.worker)),
                    false => members.push((index, &offer.worker)),
                }
            }
            // A worker whose device fails takes part only where there are too few others.
            let missing = spec.world_size - members.len();
            if missing > 0 && !self.are_enough_trusted(ordinal, spec, now) {
                members.extend(suspects.into_iter().take(missing));
            }
            if members.len() < spec.world_size {
                continue;
            }
            members.iter().for_each(|(index, _)| slots[*index] -= 1);
            // By name, so that a gang of the same workers has the same ranks again.
            members.sort_by(|a, b| a.1.cmp(b.1));
            grants.extend(self.grant(ordinal, &members, now));
        }
        grants
    }

    /// Whether a gang could be made of live workers that are not suspect.
    fn are_enough_trusted(&self, ordinal: Ordinal, spec: &Spec, now: Now) -> bool {
        let trusted = self.workers.trusted(spec, ordinal, &self.policy, now);
        trusted >= spec.world_size
    }

    /// The task that an offer gets: the oldest, unless a cache speaks for another one.
    ///
    /// - `lanes`: those that the worker may take tasks from now.
    fn pick(&mut self, offer: &Offer, lanes: &[Lane], now: Now) -> Option<Ordinal> {
        let mut oldest = None;
        let mut left: Vec<Ordinal> = Vec::new();
        for ordinal in self.queues.ready(lanes).take(LOOKAHEAD) {
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
        let overtaking = oldest
            .filter(|oldest| !self.has_cached(offer, *oldest))
            .filter(|oldest| !self.is_overdue(*oldest, now))
            .and_then(|_| self.cached_by(offer, lanes, now));
        if overtaking.is_some() {
            left.extend(oldest);
        }
        for ordinal in left {
            self.queues.pass_over(ordinal, now);
        }
        overtaking.or(oldest)
    }

    /// Roles of an offer that it may take tasks of now.
    fn roles_of(&self, offer: &Offer, now: Now) -> Vec<Role> {
        let roles = offer.roles.iter().copied();
        let is_ejected = |role: &Role| {
            self.workers
                .is_ejected(&offer.worker, *role, &self.policy, now)
        };
        roles.filter(|role| !is_ejected(role)).collect()
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
        let policy = &self.policy;
        !offer.cached.contains(&base)
            && !self.is_overdue(ordinal, now)
            && self
                .workers
                .others_have(&base, &task.spec, &offer.worker, policy, now)
    }

    fn is_overdue(&self, ordinal: Ordinal, now: Now) -> bool {
        let since = self.queues.passed_over_since(ordinal, now);
        now.saturating_sub(since) >= self.policy.locality_wait
    }

    fn has_cached(&self, offer: &Offer, ordinal: Ordinal) -> bool {
        let base = self.entries[&ordinal].task.spec.base;
        base.is_some_and(|base| offer.cached.contains(&base))
    }

    /// The oldest task whose base file this worker has.
    fn cached_by(&self, offer: &Offer, lanes: &[Lane], now: Now) -> Option<Ordinal> {
        let of_cache = self.queues.ready_of(&offer.cached);
        let fitting = of_cache.filter(|ordinal| {
            let task = &self.entries[ordinal].task;
            let lane = (task.spec.role, task.spec.device.clone());
            lanes.contains(&lane) && !self.must_avoid(task, &offer.worker, now)
        });
        fitting.min()
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

    fn assign_twins(
        &mut self,
        offers: &[&Offer],
        slots: &mut [usize],
        grants: &mut Vec<Grant>,
        now: Now,
    ) {
        if slots.iter().all(|free| *free == 0) {
            return;
        }
        for ordinal in self.stragglers(now) {
            let task = &self.entries[&ordinal].task;
            let takes = |(index, offer): &(usize, &&Offer)| {
                let worker = &offer.worker;
                slots[*index] > 0
                    && offer.fits(&task.spec)
                    && task.holder() != Some(worker)
                    && !task.failed_on.contains(worker)
                    && !self
                        .workers
                        .is_ejected(worker, task.spec.role, &self.policy, now)
            };
            let Some((index, offer)) = offers.iter().enumerate().find(takes) else {
                continue;
            };
            slots[index] -= 1;
            let key = self.entries[&ordinal].key.clone();
            let (first, twin) = (task.holder().cloned(), offer.worker.clone());
            self.notices.push(Notice::Twin { key, first, twin });
            grants.extend(self.grant(ordinal, &[(index, &offer.worker)], now));
        }
    }

    /// Tasks that a second worker should try as well: alone with one worker, of a stage that is
    /// nearly done, and running for three times the median of the stage.
    fn stragglers(&self, now: Now) -> Vec<Ordinal> {
        let late = self.stages.late();
        if late.is_empty() {
            return Vec::new();
        }
        let late: HashMap<_, _> = late.into_iter().collect();
        let is_straggler = |ordinal: &Ordinal| {
            let entry = &self.entries[ordinal];
            let (Some(held), Some(limit)) = (
                entry.task.held(),
                late.get(&(&entry.key.run, &entry.key.stage)),
            ) else {
                return false;
            };
            let runs_for = now.saturating_sub(held.lease.since);
            entry.task.spec.may_twin
                && held.twin.is_none()
                && entry.task.attempts < self.policy.max_attempts
                && runs_for > *limit
                && runs_for >= self.policy.min_straggle
        };
        self.queues.leased().filter(is_straggler).collect()
    }

    /// Leases a task; one that is leased already gets its twin.
    fn grant(&mut self, ordinal: Ordinal, members: &[(usize, &WorkerId)], now: Now) -> Vec<Grant> {
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
