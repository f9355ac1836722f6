//! Policy: durations of leases, numbers of attempts, conditions of ejection.

use std::time::Duration;

/// Durations of leases, numbers of attempts, conditions of ejection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long a lease is valid without a heartbeat.
    pub lease: Duration,
    /// Attempts before a task is given up.
    pub max_attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// Longest pause between two attempts.
    pub max_backoff: Duration,
    /// How long a task may be passed over to use a cache: it is left for a worker that has its base
    /// file cached, or a later task's base file is cached on the requesting worker.
    pub locality_wait: Duration,
    /// Minimum runtime of an attempt before its task gets a second lease.
    pub min_straggle: Duration,
    /// How long a gang waits for its ranks before it goes before older tasks of one rank.
    pub gang_wait: Duration,
    /// The period in which failures of a worker count.
    pub ejection_window: Duration,
    /// Number of distinct shards that a worker must fail within the window to be ejected.
    pub ejection_failures: usize,
    /// Length of the first ejection; doubled for each further one.
    pub ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
}

impl Policy {
    /// A policy from the configuration. The other durations follow from the length of a lease.
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
            // 2 s of 30 s: about what loading a shard of some hundred MB from a store costs.
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
