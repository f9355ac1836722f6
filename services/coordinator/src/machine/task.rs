//! A task and where it stands.

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

/// A task by what names it.
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

/// What decides who can take a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Which role takes it.
    pub role: Role,
    /// Ranks that take it together.
    pub world_size: usize,
    /// The base file that it reads, where it is one: a worker that has it cached goes first.
    pub base: Option<Digest>,
    /// The kind of device that its recipe names; only workers of that kind take it.
    pub device: Option<DeviceKind>,
    /// Whether a second worker may take it while the first still has it: one shard of many, whose
    /// work reaches no foreign host (a crawl's shard has one owner, for the sake of the hosts).
    pub may_twin: bool,
}

/// What a task asks of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) role: Role,
    /// `None`: any.
    pub(super) device: Option<&'a DeviceKind>,
}

impl Demand<'_> {
    /// Whether a worker with these roles and this device can take the task.
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
    /// Who can take it.
    pub spec: Spec,
    /// Where it stands.
    pub state: State,
    /// Attempts that were leased.
    pub attempts: u32,
    /// Workers that failed it.
    pub failed_on: BTreeSet<WorkerId>,
    /// How it failed last.
    pub last_failure: Option<FailureKind>,
    /// Who held it last (rank 0 of a gang).
    pub last_worker: Option<WorkerId>,
}

impl Task {
    /// A task that was never tried.
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

    /// Who holds it: rank 0 of a gang, the first of two twins.
    pub fn holder(&self) -> Option<&WorkerId> {
        let rank = self.held()?.lease.ranks.first()?;
        Some(&rank.worker)
    }
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Waits for its backoff to pass.
    Blocked {
        /// When it does.
        until: Now,
    },
    /// Waits for a worker.
    Ready,
    /// A worker or a gang has it. Boxed, since few of many tasks are leased at a time.
    Leased(Box<Held>),
    /// Its commit record stands. Final.
    Committed,
    /// Given up. Final, unless an operator retries it.
    Quarantined,
    /// Its run ended before it did. Final.
    Cancelled,
}

impl State {
    /// Whether it stays so.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Committed | Self::Quarantined | Self::Cancelled)
    }

    /// Held under these leases.
    pub(super) fn leased(lease: Lease, twin: Option<Lease>) -> Self {
        Self::Leased(Box::new(Held { lease, twin }))
    }
}

/// The leases of a task that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The first one.
    pub lease: Lease,
    /// A second one, on another worker, of a task that takes far longer than its like. Whichever
    /// commits first wins.
    pub twin: Option<Lease>,
}

impl Held {
    /// Both leases, where there are two.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        [&self.lease].into_iter().chain(&self.twin)
    }

    /// The lease of this epoch.
    pub fn of(&self, lease_epoch: LeaseEpoch) -> Option<&Lease> {
        self.leases().find(|lease| lease.lease_epoch == lease_epoch)
    }

    pub(super) fn of_mut(&mut self, lease_epoch: LeaseEpoch) -> Option<&mut Lease> {
        let leases = [&mut self.lease].into_iter().chain(&mut self.twin);
        leases
            .into_iter()
            .find(|lease| lease.lease_epoch == lease_epoch)
    }

    /// Without the lease of this epoch; `None` where no other is left.
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
            // The clock that it began by is gone.
            lease.since = now;
            lease
                .ranks
                .iter_mut()
                .for_each(|rank| rank.deadline = deadline);
        }
    }
}

/// Who holds a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Under which epoch; shared by the ranks.
    pub lease_epoch: LeaseEpoch,
    /// Which try it is, from 1.
    pub number: u32,
    /// Since when.
    pub since: Now,
    /// By rank; one for all but training.
    pub ranks: Vec<Rank>,
}

impl Lease {
    /// The attempt: as unique as the epoch.
    pub fn attempt(&self) -> AttemptId {
        attempt_id(self.lease_epoch)
    }

    /// When it expires without a heartbeat, and the rank whose heartbeat is missing then.
    pub(super) fn deadline(&self) -> Option<(Now, usize)> {
        let open = self.ranks.iter().enumerate();
        let open = open.filter(|(_, rank)| !rank.is_finished);
        open.map(|(index, rank)| (rank.deadline, index)).min()
    }
}

/// One holder of a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    /// Who.
    pub worker: WorkerId,
    /// When the lease expires without a heartbeat of this rank.
    pub deadline: Now,
    /// Whether it has done its part.
    pub is_finished: bool,
}

/// A task changed: as it is now, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The task.
    pub key: Arc<Key>,
    /// As it is now.
    pub task: Task,
    /// What happened.
    pub what: What,
    /// Why, where it failed.
    pub message: String,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was added.
    Added,
    /// This lease of it began.
    Began(LeaseEpoch),
    /// A rank of this lease has done its part.
    RankFinished(LeaseEpoch),
    /// This lease of it came back untried: it does not count.
    TakenBack(LeaseEpoch),
    /// It went on or ended, and these leases of it are over.
    Moved(Vec<LeaseEpoch>),
    /// It is tried again, although it was given up.
    Retried,
}

/// The attempt of this epoch: epochs are used once in a store, so attempts are unique in it.
pub fn attempt_id(lease_epoch: LeaseEpoch) -> AttemptId {
    AttemptId(format!(
        "{:06}-{:08}",
        lease_epoch.generation, lease_epoch.counter
    ))
}
