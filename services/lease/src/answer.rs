//! What the coordinator is told of a lease, and until when.

use std::time::{Duration, Instant};

use capstan_plan::FailureKind;
use capstan_proto::v1;
use capstan_runtime::trace::Context;
use tracing::{info, warn};

use crate::assignment::{Control, Failure};
use crate::message::is_transient;
use crate::serve::{FIRST_DELAY, LONGEST_DELAY, Session};

/// Limit for one answer to be taken.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a worker that stops tries to answer; then its lease expires.
const WHILE_STOPPING: Duration = Duration::from_secs(5);

/// What the coordinator is told.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The commit stands, and whether it is this attempt's.
    Complete { mine: bool },
    /// The attempt failed.
    Fail(Failure),
    /// This worker cannot go on: the attempt does not count.
    Release,
    /// The lease is another's or nobody's.
    Nothing,
}

impl Answer {
    /// What an attempt's outcome means for its lease.
    ///
    /// A worker that stops gives back what it could not finish. What failed for a reason that
    /// lies in the task (its input, its data) failed, whether the worker stops or not.
    pub(crate) fn of(outcome: Result<bool, Failure>, control: &Control) -> Self {
        match outcome {
            Ok(mine) => Self::Complete { mine },
            Err(_) if control.is_lost() => Self::Nothing,
            Err(_) if control.cancel.is_cancelled() => Self::Release,
            Err(failure) if control.stop.is_cancelled() => match failure.kind {
                FailureKind::Transient => Self::Release,
                _ => Self::Fail(failure),
            },
            Err(failure) => Self::Fail(failure),
        }
    }
}

impl Session {
    /// Tells the coordinator how it went; tries until it hears, the lease is gone or time is up.
    pub(crate) async fn answer(&self, lease: &v1::LeaseRef, answer: Answer, trace: Context) {
        match &answer {
            Answer::Nothing => return,
            Answer::Fail(failure) => {
                warn!(kind = ?failure.kind, reason = failure.message, "attempt failed");
            }
            Answer::Release => info!("lease goes back unfinished"),
            Answer::Complete { .. } => {}
        }
        let mut delay = FIRST_DELAY;
        let began = Instant::now();
        loop {
            let told = tokio::time::timeout(CALL_TIMEOUT, self.tell(lease, &answer, trace)).await;
            let told = told.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer")));
            match told {
                Ok(()) => return,
                Err(status) if is_transient(&status) && began.elapsed() < self.answer_limit() => {
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(LONGEST_DELAY);
                }
                Err(status) => {
                    info!(code = ?status.code(), said = status.message(), "answer was not taken");
                    return;
                }
            }
        }
    }

    /// Read anew before each try: the worker may be asked to stop while it answers.
    fn answer_limit(&self) -> Duration {
        match self.shutdown.is_cancelled() {
            true => WHILE_STOPPING,
            false => self.options.patience,
        }
    }

    async fn tell(
        &self,
        lease: &v1::LeaseRef,
        answer: &Answer,
        trace: Context,
    ) -> Result<(), tonic::Status> {
        let mut client = self.client.clone();
        let (worker, lease) = (self.options.worker.to_string(), Some(lease.clone()));
        match answer {
            Answer::Complete { mine } => {
                let mine = *mine;
                let request = v1::CompleteRequest {
                    worker,
                    lease,
                    mine,
                };
                client.complete(traced(request, trace)).await.map(|_| ())
            }
            Answer::Fail(failure) => {
                let request = v1::FailRequest {
                    worker,
                    lease,
                    kind: v1::FailureKind::from(failure.kind) as i32,
                    message: failure.message.clone(),
                };
                client.fail(traced(request, trace)).await.map(|_| ())
            }
            Answer::Release => {
                let request = v1::ReleaseRequest { worker, lease };
                client.release(traced(request, trace)).await.map(|_| ())
            }
            Answer::Nothing => Ok(()),
        }
    }
}

/// A call about an attempt, as a part of its trace.
fn traced<T>(message: T, trace: Context) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    trace.child().append_to(request.metadata_mut());
    request
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn failure(kind: FailureKind) -> Result<bool, Failure> {
        Err(Failure {
            kind,
            message: "why".to_owned(),
        })
    }

    fn control() -> Control {
        Control::new(CancellationToken::new(), CancellationToken::new())
    }

    #[test]
    fn a_failure_is_told_unless_the_worker_stops() {
        let transient = || failure(FailureKind::Transient);
        let going_on = control();
        let answer = Answer::of(transient(), &going_on);
        assert!(matches!(answer, Answer::Fail(_)), "{answer:?}");
        let stopping = control();
        stopping.stop.cancel();
        let answer = Answer::of(transient(), &stopping);
        assert!(matches!(answer, Answer::Release), "{answer:?}");
        let answer = Answer::of(failure(FailureKind::BadInput), &stopping);
        assert!(matches!(answer, Answer::Fail(_)), "{answer:?}");
        stopping.cancel.cancel();
        let answer = Answer::of(failure(FailureKind::PoisonShard), &stopping);
        assert!(matches!(answer, Answer::Release), "{answer:?}");
    }

    #[test]
    fn of_a_lost_lease_nothing_is_said_but_a_commit() {
        let lost = control();
        lost.lose();
        assert!(lost.cancel.is_cancelled());
        let answer = Answer::of(failure(FailureKind::BadInput), &lost);
        assert!(matches!(answer, Answer::Nothing), "{answer:?}");
        let answer = Answer::of(Ok(true), &lost);
        assert!(matches!(answer, Answer::Complete { mine: true }));
    }
}
