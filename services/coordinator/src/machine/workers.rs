//! The workers that were seen of late: who is alive, who has what cached, who fails too much.
//!
//! A worker is ejected when, within a window, it has failed three distinct shards and fewer
//! attempts of it succeeded than failed, while another live worker of a role of its own succeeds
//! more than it fails: then the fault is the worker's, not the store's or the data's. An ejected
//! worker gets no lease for a period that doubles each time, but never so that a role has nobody:
//! whether somebody else is there is asked at each lease. What it holds it may finish. Of the failures
//! of gangs only faults of the worker itself count: one rank fails all of them.
//!
//! This is memory only: a coordinator that starts anew trusts everybody again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use capstan_plan::id::{DeviceKind, Digest, WorkerId};
use capstan_plan::task::Role;

use super::task::Spec;
use super::{Now, Ordinal, Policy};

/// Outcomes of one worker that are remembered at most.
const OUTCOMES: usize = 64;

/// Workers that were seen of late.
#[derive(Debug, Default)]
pub(super) struct Workers {
    seen: BTreeMap<WorkerId, Seen>,
    /// Who has a base file cached.
    holders: HashMap<Digest, BTreeSet<WorkerId>>,
}

/// A worker.
#[derive(Debug)]
struct Seen {
    /// When it was heard of last.
    at: Now,
    roles: BTreeSet<Role>,
    device: DeviceKind,
    cached: Arc<BTreeSet<Digest>>,
    /// Its last outcomes: the shard where it failed, `None` where it committed.
    outcomes: VecDeque<(Now, Option<Ordinal>)>,
    /// Tasks that it failed through a fault of its own, and when, oldest first.
    faults: VecDeque<(Now, Ordinal)>,
    ejected_until: Now,
    /// How often it was ejected of late.
    ejections: u32,
}

/// A worker was ejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    /// The worker.
    pub worker: WorkerId,
    /// Distinct shards that it failed.
    pub shards: usize,
    /// How long it gets no lease.
    pub period: Now,
}

impl Seen {
    fn can_take(&self, role: Role, device: Option<&DeviceKind>) -> bool {
        self.roles.contains(&role) && device.is_none_or(|kind| kind == &self.device)
    }

    fn is_alive(&self, policy: &Policy, now: Now) -> bool {
        self.at >= now.saturating_sub(policy.lease)
    }

    fn is_suspect(&self, task: Ordinal, policy: &Policy, now: Now) -> bool {
        let since = now.saturating_sub(policy.ejection_window);
        let mut faults = self.faults.iter();
        self.ejected_until > now || faults.any(|(at, of)| *at >= since && *of == task)
    }

    /// Distinct shards failed and attempts committed within the window.
    fn record(&self, policy: &Policy, now: Now) -> (usize, usize) {
        let since = now.saturating_sub(policy.ejection_window);
        let recent = self.outcomes.iter().filter(|(at, _)| *at >= since);
        let (failed, committed): (Vec<_>, Vec<_>) = recent.partition(|(_, shard)| shard.is_some());
        let failed: BTreeSet<_> = failed.iter().map(|(_, shard)| shard).collect();
        (failed.len(), committed.len())
    }

    fn note(&mut self, outcome: Option<Ordinal>, now: Now) {
        if self.outcomes.len() == OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, outcome));
    }
}

impl Workers {
    /// A worker asks for work.
    pub(super) fn offers(
        &mut self,
        worker: &WorkerId,
        roles: &BTreeSet<Role>,
        device: &DeviceKind,
        cached: &Arc<BTreeSet<Digest>>,
        now: Now,
    ) {
        let seen = self.seen.entry(worker.clone()).or_insert_with(|| Seen {
            at: now,
            roles: roles.clone(),
            device: device.clone(),
            cached: Arc::default(),
            outcomes: VecDeque::new(),
            faults: VecDeque::new(),
            ejected_until: Now::ZERO,
            ejections: 0,
        });
        seen.at = now;
        if &seen.roles != roles {
            seen.roles.clone_from(roles);
        }
        if &seen.device != device {
            seen.device.clone_from(device);
        }
        // The offer of a worker that waits is the same at every beat.
        if Arc::ptr_eq(&seen.cached, cached) || seen.cached == *cached {
            return;
        }
        for gone in seen.cached.difference(cached) {
            drop_holder(&mut self.holders, gone, worker);
        }
        for new in cached.difference(&seen.cached) {
            self.holders.entry(*new).or_default().insert(worker.clone());
        }
        seen.cached = cached.clone();
    }

    /// A worker is heard of.
    pub(super) fn beats(&mut self, worker: &WorkerId, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.at = now;
        }
    }

    /// Every worker counts as alive for `gap` longer.
    pub(super) fn postpone(&mut self, gap: Now) {
        for seen in self.seen.values_mut() {
            seen.at += gap;
        }
    }

    /// Forgets workers that nobody has heard of for long.
    pub(super) fn forget(&mut self, policy: &Policy, now: Now) {
        let oldest = now.saturating_sub(policy.lease * 10);
        let gone: Vec<WorkerId> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.at < oldest)
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in gone {
            if let Some(seen) = self.seen.remove(&worker) {
                for base in seen.cached.iter() {
                    drop_holder(&mut self.holders, base, &worker);
                }
            }
        }
    }

    /// Live workers of a role, of one kind of device where it matters.
    pub(super) fn live(
        &self,
        role: Role,
        device: Option<&DeviceKind>,
        policy: &Policy,
        now: Now,
    ) -> usize {
        let fits = |seen: &&Seen| seen.can_take(role, device) && seen.is_alive(policy, now);
        self.seen.values().filter(fits).count()
    }

    /// The most common kind of device among live workers of a role; of two equally common ones the
    /// first by name.
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

    /// Whether a worker is alive that can take such a task, is none of these, and is not ejected.
    pub(super) fn others(
        &self,
        role: Role,
        device: Option<&DeviceKind>,
        but: &BTreeSet<WorkerId>,
        policy: &Policy,
        now: Now,
    ) -> bool {
        self.seen.iter().any(|(worker, seen)| {
            seen.can_take(role, device)
                && seen.is_alive(policy, now)
                && seen.ejected_until <= now
                && !but.contains(worker)
        })
    }

    /// Whether another worker that may get a lease of such a task has the base file.
    pub(super) fn others_have(
        &self,
        base: &Digest,
        spec: &Spec,
        but: &WorkerId,
        policy: &Policy,
        now: Now,
    ) -> bool {
        let holders = self.holders.get(base).into_iter().flatten();
        let mut holders = holders.filter(|holder| *holder != but);
        holders.any(|holder| {
            self.seen.get(holder).is_some_and(|seen| {
                seen.can_take(spec.role, spec.device.as_ref())
                    && seen.is_alive(policy, now)
                    && seen.ejected_until <= now
            })
        })
    }

    /// This worker failed a task through a fault of its own, such as a broken device.
    pub(super) fn at_fault(&mut self, worker: &WorkerId, task: Ordinal, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            if seen.faults.len() == OUTCOMES {
                seen.faults.pop_front();
            }
            seen.faults.push_back((now, task));
        }
    }

    /// Whether a gang is better off without this worker: it failed this task through a fault of its
    /// own within the window, or is ejected.
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

    /// Live workers that can take such a task and are not suspect.
    pub(super) fn trusted(&self, spec: &Spec, task: Ordinal, policy: &Policy, now: Now) -> usize {
        let is_trusted = |seen: &&Seen| {
            seen.can_take(spec.role, spec.device.as_ref())
                && seen.is_alive(policy, now)
                && !seen.is_suspect(task, policy, now)
        };
        self.seen.values().filter(is_trusted).count()
    }

    /// Whether this worker gets no lease of this role: it is ejected, and others are there.
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
        let but = BTreeSet::from([worker.clone()]);
        self.others(role, Some(&own.device), &but, policy, now)
    }

    /// Workers that are ejected now.
    pub(super) fn ejected(&self, now: Now) -> usize {
        let ejected = self.seen.values().filter(|seen| seen.ejected_until > now);
        ejected.count()
    }

    /// An attempt of this worker was committed.
    pub(super) fn succeeded(&mut self, worker: &WorkerId, now: Now) {
        if let Some(seen) = self.seen.get_mut(worker) {
            seen.note(None, now);
        }
    }

    /// An attempt of this worker failed through no fault of the data. Ejects it where that is too
    /// much.
    pub(super) fn failed(
        &mut self,
        worker: &WorkerId,
        shard: Ordinal,
        policy: &Policy,
        now: Now,
    ) -> Option<Ejected> {
        let seen = self.seen.get_mut(worker)?;
        seen.note(Some(shard), now);
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
        // Whoever behaved for a whole window starts anew.
        if now.saturating_sub(seen.ejected_until) > policy.ejection_window {
            seen.ejections = 0;
        }
        let period = policy.ejection_after(seen.ejections);
        seen.ejections += 1;
        seen.ejected_until = now + period;
        seen.outcomes.clear();
        Some(Ejected {
            worker: worker.clone(),
            shards: failed,
            period,
        })
    }
}

fn drop_holder(
    holders: &mut HashMap<Digest, BTreeSet<WorkerId>>,
    base: &Digest,
    worker: &WorkerId,
) {
    if let Some(of_base) = holders.get_mut(base) {
        of_base.remove(worker);
        if of_base.is_empty() {
            holders.remove(base);
        }
    }
}
