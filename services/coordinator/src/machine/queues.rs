//! Indexes of tasks by state, so that no operation scans all tasks.
//!
//! A task is named by its ordinal, its position in the order of insertion: lower is older. Every
//! operation costs the logarithm of the number of waiting tasks. Operations over runs are multiplied by
//! the number of runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::iter::Peekable;

use capstan_plan::id::{DeviceKind, LeaseEpoch};
use capstan_plan::task::Role;

use super::task::{Held, Lease, Spec, State};
use super::turns::Turns;
use super::{Now, Ordinal};

/// The number of a run, unique within the process.
pub(super) type RunNumber = u32;

/// Index of a lane: the tasks of a role, and of a device kind if they need one.
pub(super) type Lane = u32;

/// The index of a task when it is ready. Small, because every task has one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) run: RunNumber,
    pub(super) lane: Lane,
    /// Gangs ignore caches and turns.
    pub(super) is_gang: bool,
}

/// Indexes of tasks by state.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Role and device kind of each lane, by index. There are few.
    lanes: Vec<(Role, Option<DeviceKind>)>,
    /// Ready tasks of one rank, by lane and run. No set is empty.
    ready: BTreeMap<(Lane, RunNumber), BTreeSet<Ordinal>>,
    /// Ready gangs.
    gangs: BTreeSet<Ordinal>,
    /// Which run is next.
    turns: Turns,
    /// Since when a ready task is passed over, to wait for a worker with its base file cached or for
    /// the ranks of its gang.
    passed_over: HashMap<Ordinal, Now>,
    /// Blocked tasks by the end of their backoff.
    blocked: BTreeSet<(Now, Ordinal)>,
    /// Leased tasks.
    leased: BTreeSet<Ordinal>,
    /// When to check each lease. Heartbeats do not update it: a lease that was renewed is inserted
    /// again when it is checked, and one that has ended is dropped.
    deadlines: BinaryHeap<Reverse<(Now, Ordinal, LeaseEpoch)>>,
}

impl Queues {
    /// The route of a task. Its device name is shared with the other tasks of its lane.
    pub(super) fn route(&mut self, run: RunNumber, spec: &mut Spec) -> Route {
        let lane = self.lane(spec.role, spec.device.as_ref());
        let lane = lane.unwrap_or_else(|| {
            self.lanes.push((spec.role, spec.device.clone()));
            self.lanes.len() as Lane - 1
        });
        spec.device.clone_from(&self.lanes[lane as usize].1);
        Route {
            run,
            lane,
            is_gang: spec.world_size > 1,
        }
    }

    /// The lanes of the tasks that a worker with these roles and this device can execute.
    pub(super) fn lanes<'a>(
        &self,
        roles: impl IntoIterator<Item = &'a Role>,
        device: &DeviceKind,
    ) -> Vec<Lane> {
        let kinds = [None, Some(device)];
        let lanes = roles
            .into_iter()
            .flat_map(|role| kinds.map(|kind| (*role, kind)));
        lanes
            .filter_map(|(role, kind)| self.lane(role, kind))
            .collect()
    }

    fn lane(&self, role: Role, device: Option<&DeviceKind>) -> Option<Lane> {
        let is_it = |lane: &(Role, Option<DeviceKind>)| lane.0 == role && lane.1.as_ref() == device;
        let index = self.lanes.iter().position(is_it)?;
        Some(index as Lane)
    }

    fn role(&self, lane: Lane) -> Role {
        self.lanes[lane as usize].0
    }

    /// Adds a task to the index of its state.
    pub(super) fn enter(&mut self, ordinal: Ordinal, route: Route, state: &State) {
        match state {
            State::Blocked { until } => {
                self.blocked.insert((*until, ordinal));
            }
            State::Ready if route.is_gang => {
                self.gangs.insert(ordinal);
            }
            State::Ready => {
                let ready = self.ready.entry((route.lane, route.run)).or_default();
                ready.insert(ordinal);
            }
            State::Leased(held) => {
                self.leased.insert(ordinal);
                let role = self.role(route.lane);
                self.turns.lease(route.run, role, slots(held));
            }
            State::Committed | State::Quarantined | State::Cancelled => {}
        }
    }

    /// Removes a task from the index of its state.
    pub(super) fn leave(&mut self, ordinal: Ordinal, route: Route, state: &State) {
        match state {
            State::Blocked { until } => {
                self.blocked.remove(&(*until, ordinal));
            }
            State::Ready => {
                self.passed_over.remove(&ordinal);
                if route.is_gang {
                    self.gangs.remove(&ordinal);
                    return;
                }
                let queue = (route.lane, route.run);
                if let Some(ready) = self.ready.get_mut(&queue) {
                    ready.remove(&ordinal);
                    if ready.is_empty() {
                        self.ready.remove(&queue);
                    }
                }
            }
            State::Leased(held) => {
                self.leased.remove(&ordinal);
                let role = self.role(route.lane);
                self.turns.free(route.run, role, slots(held));
            }
            State::Committed | State::Quarantined | State::Cancelled => {}
        }
    }

    /// Records a grant to a run.
    pub(super) fn served(&mut self, run: RunNumber) {
        self.turns.served(run);
    }

    /// Removes a run that has no tasks.
    pub(super) fn forget(&mut self, run: RunNumber) {
        self.turns.forget(run);
    }

    /// Schedules the check of a lease.
    pub(super) fn watch(&mut self, ordinal: Ordinal, lease: &Lease) {
        if let Some((deadline, _)) = lease.deadline() {
            let entry = (deadline, ordinal, lease.lease_epoch);
            self.deadlines.push(Reverse(entry));
        }
    }

    /// Runs with ready tasks of one rank in these lanes, in the order of their turns.
    pub(super) fn runs(&self, lanes: &[Lane]) -> Vec<RunNumber> {
        let mut oldest: BTreeMap<RunNumber, Ordinal> = BTreeMap::new();
        for lane in lanes {
            let queues = self.ready.range((*lane, 0)..=(*lane, RunNumber::MAX));
            for ((_, run), queue) in queues {
                let first = queue.first().copied().unwrap_or(Ordinal::MAX);
                let of_run = oldest.entry(*run).or_insert(first);
                *of_run = first.min(*of_run);
            }
        }
        let roles = lanes.iter().map(|lane| self.role(*lane)).collect();
        let mut runs: Vec<_> = oldest
            .into_iter()
            .map(|(run, oldest)| (self.turns.turn(run, &roles), oldest, run))
            .collect();
        runs.sort_unstable();
        runs.into_iter().map(|(.., run)| run).collect()
    }

    /// Ready tasks of one rank of a run in these lanes, oldest first.
    pub(super) fn ready(
        &self,
        run: RunNumber,
        lanes: &[Lane],
    ) -> impl Iterator<Item = Ordinal> + '_ {
        let queues = lanes
            .iter()
            .filter_map(|lane| self.ready.get(&(*lane, run)));
        Merged {
            queues: queues.map(|queue| queue.iter().peekable()).collect(),
        }
    }

    /// Whether a task of one rank is ready.
    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Ready gangs, oldest first.
    pub(super) fn gangs(&self) -> Vec<Ordinal> {
        self.gangs.iter().copied().collect()
    }

    /// Marks a ready task as passed over. Returns since when it is.
    pub(super) fn pass_over(&mut self, ordinal: Ordinal, now: Now) -> Now {
        *self.passed_over.entry(ordinal).or_insert(now)
    }

    /// Since when a ready task is passed over; `now` if it is not.
    pub(super) fn passed_over_since(&self, ordinal: Ordinal, now: Now) -> Now {
        self.passed_over.get(&ordinal).copied().unwrap_or(now)
    }

    /// Leased tasks, oldest first.
    pub(super) fn leased(&self) -> impl Iterator<Item = Ordinal> {
        self.leased.iter().copied()
    }

    /// A blocked task whose backoff is over. The caller changes its state.
    pub(super) fn due(&self, now: Now) -> Option<Ordinal> {
        let (until, ordinal) = self.blocked.first()?;
        (*until <= now).then_some(*ordinal)
    }

    /// Takes a lease that must be checked.
    pub(super) fn overdue(&mut self, now: Now) -> Option<(Ordinal, LeaseEpoch)> {
        let Reverse((deadline, _, _)) = self.deadlines.peek()?;
        if *deadline >= now {
            return None;
        }
        let Reverse((_, ordinal, lease_epoch)) = self.deadlines.pop()?;
        Some((ordinal, lease_epoch))
    }
}

/// Number of slots that the leases of a task use.
fn slots(held: &Held) -> usize {
    held.leases().map(|lease| lease.ranks.len()).sum()
}

/// Several queues merged, oldest first.
struct Merged<'a> {
    queues: Vec<Peekable<std::collections::btree_set::Iter<'a, Ordinal>>>,
}

impl Iterator for Merged<'_> {
    type Item = Ordinal;

    fn next(&mut self) -> Option<Ordinal> {
        let heads = self.queues.iter_mut().enumerate();
        let heads = heads.filter_map(|(index, queue)| Some((**queue.peek()?, index)));
        let (_, index) = heads.min()?;
        self.queues[index].next().copied()
    }
}
