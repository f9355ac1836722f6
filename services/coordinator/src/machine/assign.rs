//! Who gets what: offers of workers against tasks that wait.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use capstan_plan::FailureKind;
use capstan_plan::id::{AttemptId, Digest, LeaseEpoch, WorkerId};
use capstan_plan::task::Role;

use super::{Key, Lease, Machine, Now, Rank, State, Task, attempt_id};

/// Tasks that are looked at for one whose base file the worker has cached.
const CACHE_LOOKAHEAD: usize = 64;

/// A worker that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The worker.
    pub worker: WorkerId,
    /// What it can take.
    pub roles: BTreeSet<Role>,
    /// Tasks that it wants at most.
    pub slots: usize,
    /// Base files in its cache.
    pub cached: BTreeSet<Digest>,
}

/// A task for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Index of the offer.
    pub offer: usize,
    /// The task.
    pub key: Key,
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

impl Machine {
    /// Serves offers, the oldest first, with tasks, the oldest first.
    ///
    /// A gang's task is granted to all of its ranks or not at all, each to another worker.
    pub fn assign(&mut self, offers: &[impl Borrow<Offer>], now: Now) -> Vec<Grant> {
        let offers: Vec<&Offer> = offers.iter().map(Borrow::borrow).collect();
        for offer in &offers {
            self.see(&offer.worker, Some(&offer.roles), now);
        }
        let mut slots: Vec<usize> = offers.iter().map(|offer| offer.slots).collect();
        let mut grants = self.assign_gangs(&offers, &mut slots, now);
        for (index, offer) in offers.iter().enumerate() {
            while slots[index] > 0 {
                let Some(key) = self.pick(offer, now) else {
                    break;
                };
                slots[index] -= 1;
                grants.extend(self.grant(&key, &[(index, &offer.worker)], now));
            }
        }
        grants
    }

    fn assign_gangs(&mut self, offers: &[&Offer], slots: &mut [usize], now: Now) -> Vec<Grant> {
        let gangs: Vec<Key> = self
            .ready()
            .filter(|(_, t)| t.spec.world_size > 1)
            .map(first)
            .collect();
        let mut grants = Vec::new();
        for key in gangs {
            let task = &self.tasks[&key];
            let mut members: Vec<(usize, &WorkerId)> = Vec::new();
            for (index, offer) in offers.iter().enumerate() {
                let is_free = slots[index] > 0 && offer.roles.contains(&task.spec.role);
                let is_new = members.iter().all(|(_, worker)| *worker != &offer.worker);
                if is_free && is_new && members.len() < task.spec.world_size {
                    members.push((index, &offer.worker));
                }
            }
            if members.len() < task.spec.world_size {
                continue;
            }
            members.iter().for_each(|(index, _)| slots[*index] -= 1);
            // By name, so that a gang of the same workers has the same ranks again.
            members.sort_by(|a, b| a.1.cmp(b.1));
            grants.extend(self.grant(&key, &members, now));
        }
        grants
    }

    /// The task that an offer gets: the oldest, but first one whose base file it has.
    fn pick(&self, offer: &Offer, now: Now) -> Option<Key> {
        let mut fitting = self.ready().filter(|(_, task)| {
            task.spec.world_size == 1
                && offer.roles.contains(&task.spec.role)
                && !self.must_avoid(task, &offer.worker, now)
        });
        if offer.cached.is_empty() {
            return fitting.next().map(first);
        }
        let mut oldest = None;
        for (key, task) in fitting.take(CACHE_LOOKAHEAD) {
            if task
                .spec
                .base
                .is_some_and(|base| offer.cached.contains(&base))
            {
                return Some(key.clone());
            }
            oldest = oldest.or(Some(key));
        }
        oldest.cloned()
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

    fn ready(&self) -> impl Iterator<Item = (&Key, &Task)> {
        let open = self.open.values().map(|key| (key, &self.tasks[key]));
        open.filter(|(_, task)| task.state == State::Ready)
    }

    fn grant(&mut self, key: &Key, members: &[(usize, &WorkerId)], now: Now) -> Vec<Grant> {
        let lease_epoch = self.next_epoch();
        let attempt = attempt_id(lease_epoch);
        let deadline = now + self.policy.lease;
        let rank = |(_, worker): &(usize, &WorkerId)| Rank {
            worker: (*worker).clone(),
            deadline,
            is_finished: false,
        };
        let lease = Lease {
            lease_epoch,
            attempt: attempt.clone(),
            ranks: members.iter().map(rank).collect(),
        };
        let Some(task) = self.tasks.get_mut(key) else {
            return Vec::new();
        };
        task.attempts += 1;
        let attempt_number = task.attempts;
        self.set(key, State::Leased(lease), "");
        let grant = |(rank, (offer, _)): (usize, &(usize, &WorkerId))| Grant {
            offer: *offer,
            key: key.clone(),
            lease_epoch,
            attempt: attempt.clone(),
            rank,
            world_size: members.len(),
            attempt_number,
        };
        members.iter().enumerate().map(grant).collect()
    }
}

fn first((key, _): (&Key, &Task)) -> Key {
    key.clone()
}
