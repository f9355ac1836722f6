//! Supervision of background tasks: a panic is reported, not lost.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::Inner;
use crate::error::Error;

impl Inner {
    /// Runs a part that the coordinator needs. If it panics, the coordinator stops.
    pub(crate) fn supervise(
        self: &Arc<Self>,
        part: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            if let Some(message) = panic_message(work).await {
                inner.break_down(Error::Panicked { part, message });
            }
        });
    }
}

/// Runs `work` to completion. Returns the message if it panics.
pub(super) async fn panic_message(work: impl Future<Output = ()>) -> Option<String> {
    let panic = AssertUnwindSafe(work).catch_unwind().await.err()?;
    Some(capstan_runtime::panic::text(&*panic).to_owned())
}
