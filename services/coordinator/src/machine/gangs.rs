//! Trainings of several ranks, and the slots that are kept for them.
//!
//! - A gang's task is granted to all of its ranks or not at all, each on another worker. Workers that
//!   failed it through a fault of their own, or are ejected, take part only where too few others are
//!   alive.
//! - Gangs are served oldest first. A gang whose ranks are not free yet keeps one slot of each worker
//!   that is free and fits. A younger gang does not get these slots, whatever its size. A task of one
//!   rank gets them if it is older than the gang, until the gang has waited for
//!   [`Policy::gang_wait`](super::Policy::gang_wait).
//! - A gang keeps no slot while fewer workers are alive than it has ranks.
//!
//! Slots are kept for one call of `assign` alone, so nothing stays kept for a gang that is gone. Two
//! gangs cannot wait for each other: a gang holds all of its ranks or none, and only the older one
//! keeps slots that both need.

use capstan_plan::id::WorkerId;

use super::assign::{Grant, Offer};
use super::task::Spec;
use super::{Machine, Now, Ordinal};

/// Slots of the offers that are not granted yet.
pub(super) struct Slots(Vec<Free>);

/// Slots of one offer.
struct Free {
    /// Not kept for a gang.
    open: usize,
    /// Kept for gangs: only tasks of one rank that are older than this get them. Ascending.
    kept: Vec<Ordinal>,
}

impl Slots {
    pub(super) fn new(offers: &[&Offer]) -> Self {
        let free = offers.iter().map(|offer| Free {
            open: offer.slots,
            kept: Vec::new(),
        });
        Self(free.collect())
    }

    /// Whether the offer has a slot that is not kept.
    pub(super) fn is_open(&self, offer: usize) -> bool {
        self.0[offer].open > 0
    }

    /// Whether any offer has a slot that is not kept.
    pub(super) fn any_open(&self) -> bool {
        self.0.iter().any(|free| free.open > 0)
    }

    /// Takes a slot that is not kept.
    pub(super) fn take_open(&mut self, offer: usize) {
        self.0[offer].open -= 1;
    }

    /// Which tasks of one rank the next slot of the offer may get: those older than this. `None`
    /// where no slot is left.
    pub(super) fn before(&self, offer: usize) -> Option<Ordinal> {
        let free = &self.0[offer];
        match free.open {
            0 => free.kept.last().copied(),
            _ => Some(Ordinal::MAX),
        }
    }

    /// Takes the slot that [`Slots::before`] speaks of.
    pub(super) fn take(&mut self, offer: usize) {
        let free = &mut self.0[offer];
        match free.open {
            0 => drop(free.kept.pop()),
            _ => free.open -= 1,
        }
    }

    fn keep(&mut self, offer: usize, before: Ordinal) {
        self.take_open(offer);
        let kept = &mut self.0[offer].kept;
        kept.push(before);
        kept.sort_unstable();
    }
}

impl Machine {
    pub(super) fn assign_gangs(
        &mut self,
        offers: &[&Offer],
        slots: &mut Slots,
        now: Now,
    ) -> Vec<Grant> {
        let mut grants = Vec::new();
        for ordinal in self.queues.gangs() {
            if !slots.any_open() {
                break;
            }
            let mut members = self.members(ordinal, offers, slots, now);
            let spec = &self.entries[&ordinal].task.spec;
            if members.len() < spec.world_size {
                self.keep_slots(ordinal, &members, slots, now);
                continue;
            }
            members
                .iter()
                .for_each(|(index, _)| slots.take_open(*index));
            // By name, so that a gang of the same workers has the same ranks again.
            members.sort_by(|a, b| a.1.cmp(b.1));
            grants.extend(self.grant(ordinal, &members, now));
        }
        grants
    }

    /// Free workers that can be ranks of this gang, with their offers; as many as it has ranks, if
    /// there are enough.
    fn members<'a>(
        &self,
        ordinal: Ordinal,
        offers: &[&'a Offer],
        slots: &Slots,
        now: Now,
    ) -> Vec<(usize, &'a WorkerId)> {
        let spec = &self.entries[&ordinal].task.spec;
        let policy = &self.policy;
        let mut members: Vec<(usize, &WorkerId)> = Vec::new();
        let mut suspects: Vec<(usize, &WorkerId)> = Vec::new();
        for (index, offer) in offers.iter().enumerate() {
            if members.len() == spec.world_size {
                break;
            }
            let worker = &offer.worker;
            let mut chosen = members.iter().chain(&suspects);
            if !slots.is_open(index) || !offer.fits(spec) || chosen.any(|(_, w)| *w == worker) {
                continue;
            }
            match self.workers.is_suspect(worker, ordinal, policy, now) {
                true => suspects.push((index, worker)),
                false => members.push((index, worker)),
            }
        }
        // A worker whose device fails takes part only where there are too few others.
        let missing = spec.world_size - members.len();
        if missing > 0 && !self.are_enough_trusted(ordinal, spec, now) {
            members.extend(suspects.into_iter().take(missing));
        }
        members
    }

    /// Whether a gang could be made of live workers that are not suspect.
    fn are_enough_trusted(&self, ordinal: Ordinal, spec: &Spec, now: Now) -> bool {
        let trusted = self.workers.trusted(spec, ordinal, &self.policy, now);
        trusted >= spec.world_size
    }

    /// Keeps the slots of these workers for a gang, if it can be formed once others are free.
    fn keep_slots(
        &mut self,
        ordinal: Ordinal,
        members: &[(usize, &WorkerId)],
        slots: &mut Slots,
        now: Now,
    ) {
        let spec = &self.entries[&ordinal].task.spec;
        let alive = self.workers.live(spec.demand(), &self.policy, now);
        if alive < spec.world_size {
            return;
        }
        let since = self.queues.pass_over(ordinal, now);
        let has_waited = now.saturating_sub(since) >= self.policy.gang_wait;
        let before = if has_waited { 0 } else { ordinal };
        for (index, _) in members {
            slots.keep(*index, before);
        }
    }
}
