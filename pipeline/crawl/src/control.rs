//! Cancellation, progress and clock of a running task.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Progress of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemProgress {
    /// Pages or pictures that are stored or rejected.
    pub done: u64,
    /// Pages or pictures of the task; 0 where not known.
    pub total: u64,
}

/// Cancellation, progress and the clock of one task. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    /// Cancelling it ends the task with [`crate::Error::Cancelled`].
    pub cancel: CancellationToken,
    progress: Arc<dyn Fn(ItemProgress) + Send + Sync>,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Control {
    /// - `progress`: called after every page or picture; must return quickly.
    /// - `now_ms`: milliseconds since 1970, used for `fetched_at_ms` only.
    pub fn new(
        cancel: CancellationToken,
        progress: impl Fn(ItemProgress) + Send + Sync + 'static,
        now_ms: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            cancel,
            progress: Arc::new(progress),
            now_ms: Arc::new(now_ms),
        }
    }

    /// Reports progress to the caller.
    pub fn report(&self, done: u64, total: u64) {
        (self.progress)(ItemProgress { done, total });
    }

    /// The caller's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        (self.now_ms)()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}
