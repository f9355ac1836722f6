//! Where tasks wait: an index for each state, so that nothing ever looks at all tasks.
//!
//! Tasks are named by their ordinal, the place in the order of adding: lower is older. Every
//! operation costs the logarithm of what waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::iter::Peekable;

use capstan_plan::id::{DeviceKind, Digest, LeaseEpoch};
use capstan_plan::task::Role;

use super::task::{Lease, Spec, State};
use super::{Now, Ordinal};

/// Who takes a task: the role, and the kind of device where the task needs one.
pub(super) type Lane = (Role, Option<DeviceKind>);

/// Where tasks wait.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Ready, of one rank, by who takes them.
    ready: BTreeMap<Lane, BTreeSet<Ordinal>>,
    /// Ready, of several ranks.
    gangs: BTreeSet<Ordinal>,
    /// Ready, by the base file that they read.
    by_base: HashMap<Digest, BTreeSet<Ordinal>>,
    /// Since when a ready task is passed over for the sake of a cache.
    passed_over: HashMap<Ordinal, Now>,
    /// By the end of their backoff.
    blocked: BTreeSet<(Now, Ordinal)>,
    /// Held by somebody.
    leased: BTreeSet<Ordinal>,
    /// When a lease must be looked at. Heartbeats leave it as it is: a lease that was renewed
    /// meanwhile is put back when its turn comes, and one that is over is dropped.
    deadlines: BinaryHeap<Reverse<(Now, Ordinal, LeaseEpoch)>>,
}

impl Queues {
    /// A task comes to stand here.
    pub(super) fn enter(&mut self, ordinal: Ordinal, spec: &Spec, state: &State) {
        match state {
            State::Blocked { until } => {
                self.blocked.insert((*until, ordinal));
            }
            State::Ready if spec.world_size > 1 => {
                self.gangs.insert(ordinal);
            }
            State::Ready => {
                let lane = (spec.role, spec.device.clone());
                self.ready.entry(lane).or_default().insert(ordinal);
                if let Some(base) = spec.base {
                    self.by_base.entry(base).or_default().insert(ordinal);
                }
            }
            State::Leased(_) => {
                self.leased.insert(ordinal);
            }
            State::Committed | State::Quarantined | State::Cancelled => {}
        }
    }

    /// A task that stood here goes elsewhere.
    pub(super) fn leave(&mut self, ordinal: Ordinal, spec: &Spec, state: &State) {
        match state {
            State::Blocked { until } => {
                self.blocked.remove(&(*until, ordinal));
            }
            State::Ready if spec.world_size > 1 => {
                self.gangs.remove(&ordinal);
            }
            State::Ready => {
                let lane = (spec.role, spec.device.clone());
                if let Some(ready) = self.ready.get_mut(&lane) {
                    ready.remove(&ordinal);
                }
                self.passed_over.remove(&ordinal);
                let Some(base) = spec.base else { return };
                if let Some(of_base) = self.by_base.get_mut(&base) {
                    of_base.remove(&ordinal);
                    if of_base.is_empty() {
                        self.by_base.remove(&base);
                    }
                }
            }
            State::Leased(_) => {
                self.leased.remove(&ordinal);
            }
            State::Committed | State::Quarantined | State::Cancelled => {}
        }
    }

    /// Notes when a lease that began must be looked at.
    pub(super) fn watch(&mut self, ordinal: Ordinal, lease: &Lease) {
        if let Some((deadline, _)) = lease.deadline() {
            let entry = (deadline, ordinal, lease.lease_epoch);
            self.deadlines.push(Reverse(entry));
        }
    }

    /// Ready tasks of one rank in these lanes, the oldest first.
    pub(super) fn ready<'a>(
        &'a self,
        lanes: impl IntoIterator<Item = &'a Lane>,
    ) -> impl Iterator<Item = Ordinal> + 'a {
        let queues = lanes.into_iter().filter_map(|lane| self.ready.get(lane));
        Merged {
            queues: queues.map(|queue| queue.iter().peekable()).collect(),
        }
    }

    /// Whether any task of one rank is ready.
    pub(super) fn any_ready(&self) -> bool {
        self.ready.values().any(|queue| !queue.is_empty())
    }

    /// Ready gangs, the oldest first.
    pub(super) fn gangs(&self) -> Vec<Ordinal> {
        self.gangs.iter().copied().collect()
    }

    /// Ready tasks that read one of these base files, in no order. Costs the smaller of both.
    pub(super) fn ready_of<'a>(
        &'a self,
        cached: &'a BTreeSet<Digest>,
    ) -> Box<dyn Iterator<Item = Ordinal> + 'a> {
        if self.by_base.len() < cached.len() {
            let bases = self.by_base.iter();
            let bases = bases.filter(|(base, _)| cached.contains(*base));
            return Box::new(bases.flat_map(|(_, ordinals)| ordinals.iter().copied()));
        }
        let bases = cached.iter().filter_map(|base| self.by_base.get(base));
        Box::new(bases.flatten().copied())
    }

    /// Passes a ready task over. Gives since when that is so.
    pub(super) fn pass_over(&mut self, ordinal: Ordinal, now: Now) -> Now {
        *self.passed_over.entry(ordinal).or_insert(now)
    }

    /// Since when a ready task is passed over; `now` where it was not yet.
    pub(super) fn passed_over_since(&self, ordinal: Ordinal, now: Now) -> Now {
        self.passed_over.get(&ordinal).copied().unwrap_or(now)
    }

    /// Tasks that somebody holds, the oldest first.
    pub(super) fn leased(&self) -> impl Iterator<Item = Ordinal> {
        self.leased.iter().copied()
    }

    /// A task whose backoff is over; it is due until the caller moves it.
    pub(super) fn due(&self, now: Now) -> Option<Ordinal> {
        let (until, ordinal) = self.blocked.first()?;
        (*until <= now).then_some(*ordinal)
    }

    /// Takes a lease that must be looked at.
    pub(super) fn overdue(&mut self, now: Now) -> Option<(Ordinal, LeaseEpoch)> {
        let Reverse((deadline, _, _)) = self.deadlines.peek()?;
        if *deadline >= now {
            return None;
        }
        let Reverse((_, ordinal, lease_epoch)) = self.deadlines.pop()?;
        Some((ordinal, lease_epoch))
    }
}

/// Several queues as one, the oldest first.
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
