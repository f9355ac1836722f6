//! Shutdown: the first SIGTERM or SIGINT cancels a token that every loop watches; a second signal
//! exits the process immediately.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that a second signal ends: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Returns a token that the first SIGTERM or SIGINT cancels. The second signal exits the process.
///
/// # Errors
/// The error of the system if a signal handler cannot be installed.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("shutting down; a second signal exits immediately");
        cancelled.cancel();
        either(&mut terminate, &mut interrupt).await;
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

/// Runs `work` to completion. After `token` is cancelled, the work may continue for `grace`; then
/// it is dropped.
///
/// Returns the result of the work, or `None` if it was dropped.
pub async fn with_grace<T>(
    token: &CancellationToken,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return Some(done),
        () = token.cancelled() => {}
    }
    tokio::time::timeout(grace, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_within_the_grace_period_completes() {
        let token = CancellationToken::new();
        let work = async {
            token.cancel();
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(
            with_grace(&token, Duration::from_secs(3_600), work).await,
            Some(7)
        );
    }

    #[tokio::test]
    async fn work_beyond_the_grace_period_is_dropped() {
        let token = CancellationToken::new();
        token.cancel();
        let work = std::future::pending::<()>();
        assert_eq!(with_grace(&token, Duration::ZERO, work).await, None);
    }

    #[tokio::test]
    async fn without_a_signal_there_is_no_limit() {
        let token = CancellationToken::new();
        let work = tokio::time::sleep(Duration::from_millis(5));
        assert!(with_grace(&token, Duration::ZERO, work).await.is_some());
    }
}
