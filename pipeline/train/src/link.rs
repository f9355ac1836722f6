//! The ring as a step sees it: with one limit for every operation and the time spent in it counted.

use std::time::{Duration, Instant};

use capstan_collective::{Collective, RingError, deadline_after};
use capstan_plan::clock::Stopwatch;

/// A ring, the limit of each of its operations, and the time spent in them.
pub struct Link<'a> {
    ring: &'a mut dyn Collective,
    limit: Duration,
    spent: Duration,
}

impl<'a> Link<'a> {
    /// - `limit`: for one operation; it covers the wait for the slowest rank's compute.
    pub fn new(ring: &'a mut dyn Collective, limit: Duration) -> Self {
        Self {
            ring,
            limit,
            spent: Duration::ZERO,
        }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.ring.rank()
    }

    /// Ranks in the ring.
    pub fn world_size(&self) -> usize {
        self.ring.world_size()
    }

    /// The limit of each operation.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Bytes that this rank has sent.
    pub fn bytes_reduced(&self) -> u64 {
        self.ring.bytes_reduced()
    }

    /// The time spent since this was last asked.
    pub(crate) fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    pub(crate) fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), RingError> {
        self.timed(|ring, deadline| ring.all_reduce_sum(values, deadline))
    }

    pub(crate) fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RingError> {
        self.timed(|ring, deadline| ring.all_gather_bytes(bytes, deadline))
    }

    pub(crate) fn barrier(&mut self) -> Result<(), RingError> {
        self.timed(|ring, deadline| ring.barrier(deadline))
    }

    fn timed<T>(
        &mut self,
        operation: impl FnOnce(&mut dyn Collective, Instant) -> Result<T, RingError>,
    ) -> Result<T, RingError> {
        let start = Stopwatch::start();
        let result = operation(self.ring, deadline_after(self.limit));
        self.spent += start.elapsed();
        result
    }
}
