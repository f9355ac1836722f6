//! The clock that is passed to code whose behaviour depends on the time, and a stopwatch for code
//! that measures its own work.
//!
//! `clippy.toml` bans `Instant::now` and `SystemTime::now` elsewhere. Asynchronous code that only
//! waits uses `tokio::time::Instant`, which a test pauses and advances.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Tests implement it with a clock that they set.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since a fixed moment. It never goes back. Leases expire by it.
    fn now(&self) -> Duration;

    /// The time of day. It may jump when the system's clock is set.
    fn wall(&self) -> SystemTime;

    /// [`Clock::wall`] in milliseconds since 1970, for people; 0 before 1970.
    fn unix_ms(&self) -> i64 {
        let since = self.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The clock of this machine.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Stopwatch,
}

impl SystemClock {
    /// A clock whose [`Clock::now`] counts from this call.
    #[expect(
        clippy::new_without_default,
        reason = "the call reads the time, so two clocks are not equal"
    )]
    pub fn new() -> Self {
        Self {
            started: Stopwatch::start(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that is passed in elsewhere"
    )]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Measures how long work takes. Its reading is reported and decides nothing.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    #[expect(
        clippy::disallowed_methods,
        reason = "a measurement of real work needs the real clock"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// [`Stopwatch::elapsed`] in seconds.
    pub fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(SystemTime);

    impl Clock for Fixed {
        fn now(&self) -> Duration {
            Duration::ZERO
        }

        fn wall(&self) -> SystemTime {
            self.0
        }
    }

    #[test]
    fn milliseconds_since_1970_follow_the_wall_clock() {
        let after = Fixed(UNIX_EPOCH + Duration::from_micros(1_234_567));
        assert_eq!(after.unix_ms(), 1_234);
        let before = Fixed(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before.unix_ms(), 0);
    }
}
