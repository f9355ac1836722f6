//! The threads that a rank computes on, and the CPU time that they take.
//!
//! A rank computes in a pool of its own: kernels of the backend then stay on these threads, where
//! from an ordinary thread every one of them would hop into the global pool and back, and two ranks
//! of one process would share it. The sums of a kernel may depend on the number of threads, so that
//! number is part of a training's recipe.

use std::time::Duration;

use cpu_time::ThreadTime;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::TrainError;

/// A rank's own pool of stated size.
pub struct RankPool {
    pool: ThreadPool,
}

impl RankPool {
    /// Starts `threads` threads for `rank`.
    ///
    /// # Errors
    /// [`TrainError::Threads`] where the system gives none.
    pub fn new(rank: usize, threads: usize) -> Result<Self, TrainError> {
        Self::named(format!("rank-{rank}"), threads)
    }

    /// Starts `threads` threads that load the pictures of `rank`.
    ///
    /// # Errors
    /// As [`RankPool::new`].
    pub(crate) fn loading(rank: usize, threads: usize) -> Result<Self, TrainError> {
        Self::named(format!("load-{rank}"), threads)
    }

    fn named(name: String, threads: usize) -> Result<Self, TrainError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |thread| format!("{name}-{thread}"))
            .build()
            .map_err(|source| TrainError::Threads { threads, source })?;
        Ok(Self { pool })
    }

    /// Runs `work` on a thread of the pool.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// CPU time that the pool's threads have taken so far.
    pub fn cpu_time(&self) -> Duration {
        // The threads are the pool's own, so all of their time is its.
        self.pool
            .broadcast(|_| ThreadTime::now().as_duration())
            .iter()
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_stated_threads_and_counts_their_time() {
        let pool = RankPool::new(1, 2).unwrap();
        assert_eq!(pool.run(rayon::current_num_threads), 2);
        let before = pool.cpu_time();
        let sum = pool.run(|| (0..20_000_000u64).fold(0u64, |a, b| std::hint::black_box(a ^ b)));
        assert!(sum < u64::MAX);
        assert!(pool.cpu_time() > before);
    }
}
