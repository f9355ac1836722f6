//! The clock of this crate: the only place where it reads the time.
//!
//! Deadlines are moments of the monotonic clock, because sockets wait in real time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The deadline of an operation that may take `limit` from now.
pub fn deadline_after(limit: Duration) -> Instant {
    now() + limit
}

/// The present moment, to compare with a deadline.
#[expect(
    clippy::disallowed_methods,
    reason = "sockets wait in real time, so their deadlines are judged by the real clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since 1970, for nonces.
#[expect(
    clippy::disallowed_methods,
    reason = "a nonce must differ between two starts of a process"
)]
pub(crate) fn unix_nanos() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_nanos()
}
