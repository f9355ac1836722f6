//! Turns: runs share the slots of the workers.
//!
//! The run with the fewest leased slots of the roles that a worker offers goes first. Of equal runs,
//! the one that was served longer ago, then the one with the older task. All runs have the same
//! weight; a weight would divide the number of slots in [`Turns::turn`].

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::task::Role;

use super::queues::RunNumber;

/// Leased slots of each run, and when it was served.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Leased slots by run and role. None is zero.
    slots: BTreeMap<(RunNumber, Role), usize>,
    /// Number of the last grant of each run.
    served: BTreeMap<RunNumber, u64>,
    grants: u64,
}

/// A run's position among others; lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    slots: usize,
    served: u64,
}

impl Turns {
    /// The turn of a run for a slot of these roles.
    pub(super) fn turn(&self, run: RunNumber, roles: &BTreeSet<Role>) -> Turn {
        let slots = roles
            .iter()
            .filter_map(|role| self.slots.get(&(run, *role)));
        Turn {
            slots: slots.sum(),
            served: self.served.get(&run).copied().unwrap_or_default(),
        }
    }

    /// Records a grant to a run.
    pub(super) fn served(&mut self, run: RunNumber) {
        self.grants += 1;
        self.served.insert(run, self.grants);
    }

    /// Adds leased slots of a run.
    pub(super) fn lease(&mut self, run: RunNumber, role: Role, slots: usize) {
        *self.slots.entry((run, role)).or_default() += slots;
    }

    /// Removes leased slots of a run.
    pub(super) fn free(&mut self, run: RunNumber, role: Role, slots: usize) {
        if let Some(leased) = self.slots.get_mut(&(run, role)) {
            *leased = leased.saturating_sub(slots);
            if *leased == 0 {
                self.slots.remove(&(run, role));
            }
        }
    }

    /// Removes a run without tasks.
    pub(super) fn forget(&mut self, run: RunNumber) {
        self.served.remove(&run);
    }
}
