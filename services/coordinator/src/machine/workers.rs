//! The workers that were seen recently: which are alive, what they have cached, which fail too often.
//!
//! A worker is ejected if, within a window, it failed three distinct shards, at least as many as its
//! committed attempts, while another live worker with a role of its own commits more than it fails.
//! Then the worker is at fault, not the store or the data. An ejected worker gets no lease for a
//! period that doubles each time, as long as another live worker has its role; each lease checks
//! this. It may finish the leases that it holds. Of the failures of gangs, only faults of the worker
//! itself count, because one rank fails the attempt of all ranks.
//!
//! All of this is in memory only: a coordinator that restarts trusts every worker again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use capstan_plan::id::{DeviceKind, Digest, WorkerId};
use capstan_plan::task::Role;

use super::assign::Offer;
use super::task::{Demand, Spec};
use super::{Now, Ordinal, Policy};

/// Maximum number of outcomes that are kept per worker.
const OUTCOMES: usize = 128;

/// Workers that were seen recently.
#[derive(Debug, Default)]
pub(super) struct Workers {
    seen: BTreeMap<WorkerId, Seen>,
}

/// A worker.
#[derive(Debug)]
struct Seen {
    /// When it sent its last message.
    at: Now,
    roles: BTreeSet<Role>,
    device: DeviceKind,
    cached: Arc<BTreeSet<Digest>>,
    /// Its last outcomes, oldest first.
    outcomes: VecDeque<(Now, Outcome)>,
    ejected_until: Now,
    /// Number of recent ejections.
    ejections: u32,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    /// Failed, and counts towards ejection.
    Failed(Ordinal),
    /// Failed through a fault of the worker itself. Recorded in addition to [`Outcome::Failed`],
    /// because the fault of a rank matters even if its report comes too late to count.
    Fault(Ordinal),
}

/// A worker was ejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    /// The worker.
    pub worker: WorkerId,
    /// Number of distinct shards that it failed.
    pub shards: usize,
    /// How long it gets no lease.
    pub period: Now,
}

impl Seen {
    fn is_fit(&self, demand: Demand<'_>) -> bool {
        demand.is_met_by(&self.roles, &self.device)
    }

    /// Whether it may get a lease of a task with this demand.
    fn can_take(&self, demand: Demand<'_>, policy: &Policy, now: Now) -> bool {
        self.is_fit(demand) && self.is_alive(policy, now) && self.ejected_until <= now
    }

    fn is_alive(&self, policy: &Policy, now: Now) -> bool {
        self.at >= now.saturating_sub(policy.lease)
    }

    fn is_suspect(&self, task: Ordinal, policy: &Policy, now: Now) -> bool {
        let is_fault = |outcome| outcome == Outcome::Fault(task);
        self.ejected_until > now || self.recent(policy, now).any(is_fault)
    }

    /// Outcomes within the window.
    fn recent(&self, policy: &Policy, now: Now) -> impl Iterator<Item = Outcome> {
        let since = now.saturating_sub(policy.ejection_window);
        let recent = self.outcomes.iter().filter(move |(at, _)| *at >= since);
        recent.map(|(_, outcome)| *outcome)
    }

    /// Number of distinct shards failed, and of attempts committed, within the window.
    fn record(&self, policy: &Policy, now: Now) -> (usize, usize) {
        let (mut failed, mut committed) = (BTreeSet::new(), 0);
        for outcome in self.recent(policy, now) {
            match outcome {
                Outcome::Committed => committed += 1,
                Outcome::Failed(shard) => drop(failed.insert(shard)),
                Outcome::Fault(_) => {}
            }
        }
        (failed.len(), committed)
    }

    fn note(&mut self, outcome: Outcome, now: Now) {
        if self.outcomes.len() == OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, outcome));
    }
}

impl Workers {
    /// Records the offer of a worker. Returns its previous cached files if they changed.
    pub(super) fn update(&mut self, offer: &Offer, now: Now) -> Option<Arc<BTreeSet<Digest>>> {
        let seen = self
            .seen
            .entry(offer.worker.clone())
            .or_insert_with(|| Seen {
                at: now,
                roles: offer.roles.clone(),
                device: offer.device.clone(),
                cached: Arc::default(),
                outcomes: VecDeque::new(),
                ejected_until: Now::ZERO,
                ejections: 0,
            });
        seen.at = now;
        if seen.roles != offer.roles {
            seen.roles.clone_from(&offer.roles);
        }
        if seen.device != offer.device {
            seen.device.clone_from(&offer.device);
        }
        // A waiting worker has the same offer at every beat.
        if Arc::ptr_eq(&seen.cached, &offer.cached) {
            return None;
        }
        let before = std::mem::replace(&mut seen.cached, offer.cached.clone());
        (before != offer.cached).then_some(before)
    }

    /// Records a heartbeat.
    pub(super) fn heard(&mut self, worker: &WorkerId, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.at = now;
        }
    }

    /// Makes every worker count as alive for `gap` longer.
    pub(super) fn postpone(&mut self, gap: Now) {
        for seen in self.seen.values_mut() {
            seen.at += gap;
        }
    }

    /// Removes workers that were silent for ten lease periods. Returns what they had cached.
    pub(super) fn forget(
        &mut self,
        policy: &Policy,
        now: Now,
    ) -> Vec<(WorkerId, Arc<BTreeSet<Digest>>)> {
        let oldest = now.saturating_sub(policy.lease * 10);
        let gone = self.seen.extract_if(.., |_, seen| seen.at < oldest);
        gone.map(|(worker, seen)| (worker, seen.cached)).collect()
    }

    /// Number of live workers that can execute a task with this demand.
    pub(super) fn live(&self, demand: Demand<'_>, policy: &Policy, now: Now) -> usize {
        let fits = |seen: &&Seen| seen.is_fit(demand) && seen.is_alive(policy, now);
        self.seen.values().filter(fits).count()
    }

    /// The most common device kind among live workers of a role. Of equally common ones, the first
    /// by name.
    pub(super) fn common_device(
        &self,
        role: Role,
        policy: &Policy,
        now: Now,
    ) -> Option<DeviceKind> {
        let mut counts: BTreeMap<&DeviceKind, usize> = BTreeMap::new();
        for seen in self.seen.values() {
            if seen.roles.contains(&role) && seen.is_alive(policy, now) {
                *counts.entry(&seen.device).or_default() += 1;
            }
        }
        let most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
        most.map(|(device, _)| device.clone())
    }

    /// Whether a live worker other than `except` can execute such a task and is not ejected.
    pub(super) fn others(
        &self,
        demand: Demand<'_>,
        except: &BTreeSet<WorkerId>,
        policy: &Policy,
        now: Now,
    ) -> bool {
        let can_take = |seen: &Seen| seen.can_take(demand, policy, now);
        let mut seen = self.seen.iter();
        seen.any(|(worker, seen)| can_take(seen) && !except.contains(worker))
    }

    /// Whether this worker is alive, can execute such a task, and is not ejected.
    pub(super) fn can_take(
        &self,
        worker: &WorkerId,
        demand: Demand<'_>,
        policy: &Policy,
        now: Now,
    ) -> bool {
        let seen = self.seen.get(worker);
        seen.is_some_and(|seen| seen.can_take(demand, policy, now))
    }

    /// Records that a worker failed a task through a fault of its own, such as a broken device.
    pub(super) fn record_fault(&mut self, worker: &WorkerId, task: Ordinal, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.note(Outcome::Fault(task), now);
        }
    }

    /// Whether a gang should avoid this worker: it failed this task through a fault of its own within
    /// the window, or is ejected.
    pub(super) fn is_suspect(
        &self,
        worker: &WorkerId,
        task: Ordinal,
        policy: &Policy,
        now: Now,
    ) -> bool {
        let seen = self.seen.get(worker);
        seen.is_some_and(|seen| seen.is_suspect(task, policy, now))
    }

    /// Number of live workers that can execute such a task and are not suspect.
    pub(super) fn trusted(&self, spec: &Spec, task: Ordinal, policy: &Policy, now: Now) -> usize {
        let is_trusted = |seen: &&Seen| {
            seen.is_fit(spec.demand())
                && seen.is_alive(policy, now)
                && !seen.is_suspect(task, policy, now)
        };
        self.seen.values().filter(is_trusted).count()
    }

    /// Whether this worker gets no lease of this role: it is ejected, and another worker has the role.
    pub(super) fn is_ejected(
        &self,
        worker: &WorkerId,
        role: Role,
        policy: &Policy,
        now: Now,
    ) -> bool {
        let is_ejected = |seen: &Seen| seen.ejected_until > now;
        let Some(own) = self.seen.get(worker).filter(|seen| is_ejected(seen)) else {
            return false;
        };
        let demand = Demand {
            role,
            device: Some(&own.device),
        };
        let except = BTreeSet::from([worker.clone()]);
        self.others(demand, &except, policy, now)
    }

    /// Number of workers that are ejected now.
    pub(super) fn ejected(&self, now: Now) -> usize {
        let ejected = self.seen.values().filter(|seen| seen.ejected_until > now);
        ejected.count()
    }

    /// Records a committed attempt of this worker.
    pub(super) fn record_commit(&mut self, worker: &WorkerId, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.note(Outcome::Committed, now);
        }
    }

    /// Records a failed attempt of this worker that the data did not cause. Ejects the worker if it
    /// fails too often.
    pub(super) fn record_failure(
        &mut self,
        worker: &WorkerId,
        shard: Ordinal,
        policy: &Policy,
        now: Now,
    ) -> Option<Ejected> {
        let seen = self.seen.get_mut(worker)?;
        seen.note(Outcome::Failed(shard), now);
        let (failed, committed) = seen.record(policy, now);
        if failed < policy.ejection_failures || committed >= failed {
            return None;
        }
        let roles = seen.roles.clone();
        let is_healthy = |(other, seen): (&WorkerId, &Seen)| {
            let (failed, committed) = seen.record(policy, now);
            other != worker
                && !seen.roles.is_disjoint(&roles)
                && seen.is_alive(policy, now)
                && seen.ejected_until <= now
                && committed > failed
        };
        if !self.seen.iter().any(is_healthy) {
            return None;
        }
        let seen = self.seen.get_mut(worker)?;
        // After a whole window without ejection, the period starts from the shortest again.
        if now.saturating_sub(seen.ejected_until) > policy.ejection_window {
            seen.ejections = 0;
        }
        let period = policy.ejection_after(seen.ejections);
        seen.ejections += 1;
        seen.ejected_until = now + period;
        // Faults are kept, so that gangs still avoid the worker.
        seen.outcomes
            .retain(|(_, outcome)| matches!(outcome, Outcome::Fault(_)));
        Some(Ejected {
            worker: worker.clone(),
            shards: failed,
            period,
        })
    }
}
