//! Watching a run: the coordinator's events on a board of bars, with reconnects.
//!
//! ```text
//! coordinator ── events ──► follow ──► Board (bars, rates, remaining time)
//!                  ▲          │ lost: connect again, a snapshot comes first
//!                  └──────────┘
//! ```

mod board;
mod estimate;
mod stage;

use std::time::Duration;

use capstan_plan::backoff::Backoff;
use capstan_proto::v1;
use capstan_proto::v1::event::What;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use board::Board;

use crate::client::{self, Coordinator};
use crate::error::{Exit, ExpectedError};

/// Time between two drawings without events.
const TICK: Duration = Duration::from_millis(500);
/// Limits of the delays between two attempts to reconnect.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Longest time without the coordinator.
const PATIENCE: Duration = Duration::from_secs(120);

/// The end of a watch.
#[derive(Debug)]
pub enum Followed {
    /// The run ended.
    Ended(v1::RunEnded),
    /// The watcher stopped; the run continues.
    Left,
}

/// The end of a successful run.
///
/// # Errors
/// Run failed, with the reason: the stage, the shards and their errors.
pub fn finished(ended: v1::RunEnded) -> Result<v1::RunEnded, ExpectedError> {
    match ended.state() {
        v1::RunState::Done => Ok(ended),
        v1::RunState::Cancelled => {
            Err(ExpectedError::new(Exit::RunFailed, "the run was cancelled"))
        }
        _ => Err(ExpectedError::new(Exit::RunFailed, ended.reason)),
    }
}

/// Watches a run to its end, or until `leave`. Reconnects to a coordinator that is lost.
///
/// # Errors
/// Unavailable, if the coordinator is lost for two minutes; usage, for an unknown run.
pub async fn follow(
    coordinator: &Coordinator,
    run: &str,
    board: &mut Board,
    leave: &CancellationToken,
) -> Result<Followed, ExpectedError> {
    let mut lost: Option<Instant> = None;
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        let status = match stream(coordinator, run, board, leave, &mut lost).await {
            Ok(followed) => return Ok(followed),
            Err(status) => status,
        };
        if !client::may_come_back(&status) {
            return Err(client::refused(coordinator.address(), &status));
        }
        let since = *lost.get_or_insert_with(|| {
            backoff.reset();
            board.say(&format!(
                "lost the coordinator ({}); reconnecting",
                status.message()
            ));
            Instant::now()
        });
        if since.elapsed() > PATIENCE {
            return Err(client::refused(coordinator.address(), &status));
        }
        tokio::select! {
            () = leave.cancelled() => return Ok(Followed::Left),
            () = tokio::time::sleep(backoff.next_delay()) => board.tick(),
        }
    }
}

/// The events of one connection.
async fn stream(
    coordinator: &Coordinator,
    run: &str,
    board: &mut Board,
    leave: &CancellationToken,
    lost: &mut Option<Instant>,
) -> Result<Followed, Status> {
    let mut events = tokio::select! {
        () = leave.cancelled() => return Ok(Followed::Left),
        events = coordinator.events(run) => events?,
    };
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = leave.cancelled() => return Ok(Followed::Left),
            _ = ticks.tick() => board.tick(),
            event = events.message() => {
                let Some(event) = event? else {
                    return Err(Status::unavailable("it ended the watch before the run ended"));
                };
                *lost = None;
                board.apply(&event);
                if let Some(What::RunEnded(ended)) = event.what {
                    return Ok(Followed::Ended(ended));
                }
            }
        }
    }
}

/// Seconds as `4 s`, `3 min 20 s`, `2 h 5 min` or `3 d 4 h`.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn times_have_two_units_at_most() {
        let shown = [4.4, 200.0, 7_500.0, 273_600.0].map(clock);
        assert_eq!(shown, ["4 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"]);
    }
}
