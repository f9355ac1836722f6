//! A task and where it stands.

use std::collections::BTreeSet;
use std::fmt;

use capstan_plan::FailureKind;
use capstan_plan::id::{AttemptId, Digest, LeaseEpoch, RunId, ShardId, StageName, WorkerId};
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
    /// Place in the order of adding.
    pub(super) added: u64,
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
            added: 0,
        }
    }

    /// Who holds it: rank 0 of a gang.
    pub fn holder(&self) -> Option<WorkerId> {
        match &self.state {
            State::Leased(lease) => lease.ranks.first().map(|rank| rank.worker.clone()),
            _ => None,
        }
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
    /// Somebody has it.
    Leased(Lease),
    /// Its commit record stands. Final.
    Committed,
    /// Given up. Final.
    Quarantined,
    /// Its run ended before it did. Final.
    Cancelled,
}

impl State {
    /// Whether it stays so.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Committed | Self::Quarantined | Self::Cancelled)
    }
}

/// Who holds a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Under which epoch; shared by the ranks.
    pub lease_epoch: LeaseEpoch,
    /// The attempt; shared by the ranks.
    pub attempt: AttemptId,
    /// By rank; one for all but training.
    pub ranks: Vec<Rank>,
}

impl Lease {
    /// A rank that was not heard of in time.
    pub(super) fn expired(&self, now: Now) -> Option<usize> {
        self.ranks
            .iter()
            .position(|rank| !rank.is_finished && rank.deadline < now)
    }

    pub(super) fn renew_all(&mut self, deadline: Now) {
        self.ranks
            .iter_mut()
            .for_each(|rank| rank.deadline = deadline);
    }
}

/// One holder of a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    /// Who.
    pub worker: WorkerId,
    /// Until when, unless it is heard of.
    pub deadline: Now,
    /// Whether it has done its part.
    pub is_finished: bool,
}

/// A task changed: as it is now, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The task.
    pub key: Key,
    /// As it is now.
    pub task: Task,
    /// Why, where it failed.
    pub message: String,
}
