//! Panics of the coordinator's tasks are reported, not swallowed.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::Inner;
use crate::error::Error;

impl Inner {
    /// Runs a part that the coordinator cannot work without. If it panics, the coordinator stops.
    pub(crate) fn supervise(
        self: &Arc<Self>,
        part: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            if let Some(said) = panicked(work).await {
                inner.break_down(Error::Panicked { part, said });
            }
        });
    }
}

/// Runs `work` to its end; gives the message of a panic.
pub(super) async fn panicked(work: impl Future<Output = ()>) -> Option<String> {
    let panic = AssertUnwindSafe(work).catch_unwind().await.err()?;
    Some(capstan_runtime::panic::text(&*panic).to_owned())
}
