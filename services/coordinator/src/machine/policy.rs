//! When leases end, how often a task is tried, when a worker is ejected.

use std::time::Duration;

/// When leases end, how often a task is tried, when a worker is ejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long a lease lives without a heartbeat.
    pub lease: Duration,
    /// Attempts before a task is given up.
    pub max_attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// Between two attempts at most.
    pub max_backoff: Duration,
    /// How long a task is passed over at most for the sake of a cache: left for a worker that has
    /// its base file, or overtaken by a later task whose base file the asking worker has.
    pub locality_wait: Duration,
    /// A twin is not given to a task that has run for less than this.
    pub min_straggle: Duration,
    /// How long a gang waits for its ranks before it goes ahead of older tasks of one rank.
    pub gang_wait: Duration,
    /// How far back failures of a worker count.
    pub ejection_window: Duration,
    /// Distinct shards that a worker must have failed within it to be ejected.
    pub ejection_failures: usize,
    /// How long a worker is ejected the first time; doubled for each further one.
    pub ejection: Duration,
    /// How long a worker is ejected at most.
    pub max_ejection: Duration,
}

impl Policy {
    /// The settings of the configuration; the rest follows from the length of a lease.
    pub const fn new(
        lease: Duration,
        max_attempts: u32,
        backoff: Duration,
        max_backoff: Duration,
    ) -> Self {
        Self {
            lease,
            max_attempts,
            backoff,
            max_backoff,
            // 2 s of 30: what loading a shard of some hundred MB from a store costs.
            locality_wait: Duration::from_millis(lease.as_millis() as u64 / 15),
            min_straggle: Duration::from_millis(lease.as_millis() as u64 / 6),
            gang_wait: lease.saturating_mul(10),
            ejection_window: lease.saturating_mul(10),
            ejection_failures: 3,
            ejection: lease,
            max_ejection: lease.saturating_mul(20),
        }
    }

    /// The pause after this many attempts.
    pub(crate) fn backoff_after(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        (self.backoff * 2u32.pow(doublings)).min(self.max_backoff)
    }

    pub(super) fn ejection_after(&self, ejections: u32) -> Duration {
        (self.ejection * 2u32.pow(ejections.min(16))).min(self.max_ejection)
    }
}
