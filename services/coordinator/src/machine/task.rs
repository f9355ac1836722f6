//! A task and its state.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use capstan_plan::FailureKind;
use capstan_plan::id::{
    AttemptId, DeviceKind, Digest, LeaseEpoch, RunId, ShardId, StageName, WorkerId,
};
use capstan_plan::task::Role;

use super::Now;

/// The identity of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard.
    pub shard: ShardId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.run, self.stage, self.shard)
    }
}

/// The requirements of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The role of the workers that can execute it.
    pub role: Role,
    /// Number of ranks that execute it together.
    pub world_size: usize,
    /// The base file that it reads, if there is one. Workers that have it cached are preferred.
    pub base: Option<Digest>,
    /// The device kind that its recipe names; only workers of that kind can execute it.
    pub device: Option<DeviceKind>,
    /// Whether it may get a second lease while the first is held. True for one shard of many that
    /// sends no requests to foreign hosts: a crawl's shard has one owner, to protect the hosts.
    pub may_twin: bool,
}

/// What a task requires of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) role: Role,
    /// `None`: any device.
    pub(super) device: Option<&'a DeviceKind>,
}

impl Demand<'_> {
    /// Whether a worker with these roles and this device can execute the task.
    pub(super) fn is_met_by(&self, roles: &BTreeSet<Role>, device: &DeviceKind) -> bool {
        roles.contains(&self.role) && self.device.is_none_or(|kind| kind == device)
    }
}

impl Spec {
    pub(super) fn demand(&self) -> Demand<'_> {
        Demand {
            role: self.role,
            device: self.device.as_ref(),
        }
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its requirements.
    pub spec: Spec,
    /// Its state.
    pub state: State,
    /// Number of attempts so far.
    pub attempts: u32,
    /// Workers on which it failed.
    pub failed_on: BTreeSet<WorkerId>,
    /// Kind of the last failure.
    pub last_failure: Option<FailureKind>,
    /// The worker that held it last (rank 0 of a gang).
    pub last_worker: Option<WorkerId>,
}

impl Task {
    /// A task without attempts.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            state: State::Ready,
            attempts: 0,
            failed_on: BTreeSet::new(),
            last_failure: None,
            last_worker: None,
        }
    }

    /// Its leases, if it is leased.
    pub fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Leased(held) => Some(held),
            _ => None,
        }
    }

    /// The worker that holds it: rank 0 of a gang, the worker of the first lease if there are two.
    pub fn holder(&self) -> Option<&WorkerId> {
        let rank = self.held()?.lease.ranks.first()?;
        Some(&rank.worker)
    }
}

/// The state of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Waits until its backoff is over.
    Blocked {
        /// The end of the backoff.
        until: Now,
    },
    /// Can be leased.
    Ready,
    /// Leased to a worker or a gang. Boxed, because few tasks are leased at a time.
    Leased(Box<Held>),
    /// It has a commit record. Final.
    Committed,
    /// Given up. Final, unless an operator retries it.
    Quarantined,
    /// Its run ended first. Final.
    Cancelled,
}

impl State {
    /// Whether the state is final.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Committed | Self::Quarantined | Self::Cancelled)
    }

    /// Leased under these leases.
    pub(super) fn leased(lease: Lease, twin: Option<Lease>) -> Self {
        Self::Leased(Box::new(Held { lease, twin }))
    }
}

/// The leases of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The first lease.
    pub lease: Lease,
    /// A speculative lease on another worker, of a task that takes far longer than others. The
    /// first commit wins.
    pub twin: Option<Lease>,
}

impl Held {
    /// Its one or two leases.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        [&self.lease].into_iter().chain(&self.twin)
    }

    /// The lease of this epoch.
    pub fn find(&self, lease_epoch: LeaseEpoch) -> Option<&Lease> {
        self.leases().find(|lease| lease.lease_epoch == lease_epoch)
    }

    pub(super) fn find_mut(&mut self, lease_epoch: LeaseEpoch) -> Option<&mut Lease> {
        let leases = [&mut self.lease].into_iter().chain(&mut self.twin);
        leases
            .into_iter()
            .find(|lease| lease.lease_epoch == lease_epoch)
    }

    /// The state without the lease of this epoch; `None` if there is no other lease.
    pub(super) fn without(self, lease_epoch: LeaseEpoch) -> Option<State> {
        let Self { lease, twin } = self;
        let rest = if lease.lease_epoch == lease_epoch {
            twin
        } else {
            Some(lease)
        };
        rest.map(|lease| State::leased(lease, None))
    }

    pub(super) fn postpone(&mut self, gap: Duration) {
        for lease in [&mut self.lease].into_iter().chain(&mut self.twin) {
            lease.since += gap;
            for rank in &mut lease.ranks {
                rank.deadline += gap;
            }
        }
    }

    pub(super) fn renew_all(&mut self, now: Now, deadline: Now) {
        for lease in [&mut self.lease].into_iter().chain(&mut self.twin) {
            // `since` was read from the clock of the process before the restart.
            lease.since = now;
            lease
                .ranks
                .iter_mut()
                .for_each(|rank| rank.deadline = deadline);
        }
    }
}

/// A lease of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The epoch, shared by the ranks.
    pub lease_epoch: LeaseEpoch,
    /// Number of the attempt, from 1.
    pub number: u32,
    /// When it began.
    pub since: Now,
    /// The ranks in order; one for every task but training.
    pub ranks: Vec<Rank>,
}

impl Lease {
    /// The attempt id. It is as unique as the epoch.
    pub fn attempt(&self) -> AttemptId {
        attempt_id(self.lease_epoch)
    }

    /// When it expires without further heartbeats, and the rank whose deadline is first.
    pub(super) fn deadline(&self) -> Option<(Now, usize)> {
        let open = self.ranks.iter().enumerate();
        let open = open.filter(|(_, rank)| !rank.is_finished);
        open.map(|(index, rank)| (rank.deadline, index)).min()
    }
}

/// A rank of a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    /// The worker.
    pub worker: WorkerId,
    /// When the lease expires without a heartbeat of this rank.
    pub deadline: Now,
    /// Whether it has finished.
    pub is_finished: bool,
}

/// A change of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The task.
    pub key: Arc<Key>,
    /// The task after the change.
    pub task: Task,
    /// The change.
    pub what: What,
    /// The error, if an attempt failed.
    pub message: String,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was added.
    Added,
    /// This lease began.
    Began(LeaseEpoch),
    /// A rank of this lease has finished.
    RankFinished(LeaseEpoch),
    /// This lease ended before its attempt began. The attempt does not count.
    TakenBack(LeaseEpoch),
    /// The state changed, and these leases ended.
    Moved(Vec<LeaseEpoch>),
    /// It was given up and is retried.
    Retried,
}

/// The attempt id of an epoch. Epochs are unique in a store, so attempt ids are too.
pub fn attempt_id(lease_epoch: LeaseEpoch) -> AttemptId {
    AttemptId(format!(
        "{:06}-{:08}",
        lease_epoch.generation, lease_epoch.counter
    ))
}
