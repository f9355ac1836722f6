//! Tasks of several ranks (gangs), and the slots that are reserved for them.
//!
//! - A gang's task is granted to all of its ranks or not at all, each on another worker. Workers that
//!   failed it through a fault of their own, or are ejected, are ranks only if too few others are
//!   alive.
//! - Gangs are served oldest first. A gang with too few free workers reserves one slot of each free
//!   worker that fits. Younger gangs do not get these slots. Tasks of one rank get them if they are
//!   older than the gang, until the gang has waited for
//!   [`Policy::gang_wait`](super::Policy::gang_wait).
//! - A gang reserves no slot if fewer workers are alive than it has ranks.
//!
//! Reservations last for one call of `assign`, so none outlives its gang. Two gangs cannot wait for each
//! other: a gang holds all of its ranks or none, and only the older one reserves slots that both need.

use capstan_plan::id::WorkerId;

use super::assign::{Grant, Offer};
use super::task::Spec;
use super::{Machine, Now, Ordinal};

/// Slots of the offers that are not granted.
pub(super) struct Slots(Vec<Free>);

/// Slots of one offer.
struct Free {
    /// Slots that are not reserved.
    open: usize,
    /// Reserved slots: a task of one rank gets one if it is older than this ordinal. Ascending.
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

    /// Whether the offer has a slot that is not reserved.
    pub(super) fn is_open(&self, offer: usize) -> bool {
        self.0[offer].open > 0
    }

    /// Whether any offer has a slot that is not reserved.
    pub(super) fn any_open(&self) -> bool {
        self.0.iter().any(|free| free.open > 0)
    }

    /// Takes a slot that is not reserved.
    pub(super) fn take_open(&mut self, offer: usize) {
        self.0[offer].open -= 1;
    }

    /// The next slot of the offer is for tasks of one rank older than this ordinal. `None` if there
    /// is no slot.
    pub(super) fn before(&self, offer: usize) -> Option<Ordinal> {
        let free = &self.0[offer];
        match free.open {
            0 => free.kept.last().copied(),
            _ => Some(Ordinal::MAX),
        }
    }

    /// Takes the slot that [`Slots::before`] describes.
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
            // Sorted by name, so that a gang of the same workers gets the same ranks again.
            members.sort_by(|a, b| a.1.cmp(b.1));
            grants.extend(self.grant(ordinal, &members, now));
        }
        grants
    }

    /// Free workers for the ranks of this gang, with their offers: at most as many as it has ranks.
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
        // Suspect workers are ranks only if there are too few others.
        let missing = spec.world_size - members.len();
        if missing > 0 && !self.are_enough_trusted(ordinal, spec, now) {
            members.extend(suspects.into_iter().take(missing));
        }
        members
    }

    /// Whether there are enough live workers that are not suspect.
    fn are_enough_trusted(&self, ordinal: Ordinal, spec: &Spec, now: Now) -> bool {
        let trusted = self.workers.trusted(spec, ordinal, &self.policy, now);
        trusted >= spec.world_size
    }

    /// Reserves the slots of these workers for a gang, if enough workers are alive to form it later.
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
