//! Delays between retries: exponential, bounded, with full jitter.
//!
//! Processes that failed together (a coordinator restarted, a store was overloaded) must not retry
//! together. Full jitter spreads their calls best for the load that they cause: M. Brooker,
//! "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::hash::BuildHasher;
use std::time::Duration;

/// Delays of one retry loop. Each is drawn from zero up to a limit, which doubles with every retry
/// until it is the longest one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    limit: Duration,
}

impl Backoff {
    /// - `first`: limit of the first delay.
    /// - `longest`: limit of every delay.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let first = first.min(longest);
        Self {
            first,
            longest,
            limit: first,
        }
    }

    /// The delay before the next retry.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.limit.mul_f64(jitter());
        self.limit = (self.limit * 2).min(self.longest);
        delay
    }

    /// Starts again with the first limit, after a call that succeeded.
    pub fn reset(&mut self) {
        self.limit = self.first;
    }
}

/// A random share in `[0, 1)`. It differs between processes, also between those that have the same
/// process id in containers of their own.
#[expect(
    clippy::disallowed_methods,
    reason = "jitter must be random, and no result depends on it"
)]
pub fn jitter() -> f64 {
    // Every state has keys of its own, which the standard library draws from the system.
    let random = std::hash::RandomState::new().hash_one(0u8);
    (random >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    #[test]
    fn limits_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut limit = FIRST;
        for _ in 0..100 {
            let delay = backoff.next_delay();
            assert!(delay < limit, "{delay:?} of {limit:?}");
            limit = (limit * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next_delay() < FIRST);
    }

    #[test]
    fn a_first_limit_beyond_the_longest_is_cut() {
        assert!(Backoff::new(LONGEST, FIRST).next_delay() < FIRST);
    }

    #[test]
    fn retry_loops_draw_their_own_delays_from_the_whole_range() {
        let shares: Vec<f64> = (0..1_000).map(|_| jitter()).collect();
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)));
        let low = shares.iter().filter(|share| **share < 0.5).count();
        assert!((300..700).contains(&low), "{low} of 1000 below the middle");
    }
}
