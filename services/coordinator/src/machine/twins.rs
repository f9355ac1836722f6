//! Twins: speculative second leases of tasks that take far longer than others of their stage.

use std::collections::HashMap;

use super::assign::{Grant, Offer};
use super::gangs::Slots;
use super::{Machine, Notice, Now, Ordinal};

impl Machine {
    pub(super) fn assign_twins(
        &mut self,
        offers: &[&Offer],
        slots: &mut Slots,
        grants: &mut Vec<Grant>,
        now: Now,
    ) {
        if !slots.any_open() {
            return;
        }
        for ordinal in self.stragglers(now) {
            let task = &self.entries[&ordinal].task;
            let takes = |(index, offer): &(usize, &&Offer)| {
                let (worker, policy) = (&offer.worker, &self.policy);
                slots.is_open(*index)
                    && offer.fits(&task.spec)
                    && task.holder() != Some(worker)
                    && !task.failed_on.contains(worker)
                    && !self.workers.is_ejected(worker, task.spec.role, policy, now)
            };
            let Some((index, offer)) = offers.iter().enumerate().find(takes) else {
                continue;
            };
            slots.take_open(index);
            let key = self.entries[&ordinal].key.clone();
            let (first, twin) = (task.holder().cloned(), offer.worker.clone());
            self.notices.push(Notice::Twin { key, first, twin });
            grants.extend(self.grant(ordinal, &[(index, &offer.worker)], now));
        }
    }

    /// Tasks that should get a second lease: held by one worker, in a stage that is nearly done, and
    /// running for more than three times the median of the stage.
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
}
