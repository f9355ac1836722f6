//! The report of an attempt's outcome to the coordinator.

use std::time::Duration;

use capstan_plan::FailureKind;
use capstan_plan::backoff::Backoff;
use capstan_proto::v1;
use capstan_runtime::trace::Context;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::assignment::{Control, Failure};
use crate::message::is_transient;
use crate::serve::{FIRST_DELAY, LONGEST_DELAY, Leased, SlotContext};

/// Limit for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopping worker tries to report; after that its lease expires.
const STOPPING_LIMIT: Duration = Duration::from_secs(5);

/// What is known of the commit record of a task that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Whether this attempt wrote it.
    pub(crate) mine: bool,
    /// Whether the recipe of the task points at it.
    pub(crate) recipe_published: bool,
}

/// The outcome of an attempt, as it is reported for the lease.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The commit record exists.
    Complete(Completion),
    /// The attempt failed.
    Fail(Failure),
    /// This worker cannot continue. The attempt does not count as a failure.
    Release,
    /// This worker no longer holds the lease, so nothing is reported.
    Lost,
}

impl Outcome {
    /// The outcome for the lease of an attempt that returned `result`.
    ///
    /// A stopping worker releases what it could not finish. A failure that is caused by the task
    /// (its input or its data) is reported even then.
    pub(crate) fn new(result: Result<Completion, Failure>, control: &Control) -> Self {
        match result {
            Ok(completion) => Self::Complete(completion),
            Err(_) if control.is_lost() => Self::Lost,
            Err(_) if control.cancel.is_cancelled() => Self::Release,
            Err(failure) if control.stop.is_cancelled() => match failure.kind {
                FailureKind::Transient => Self::Release,
                _ => Self::Fail(failure),
            },
            Err(failure) => Self::Fail(failure),
        }
    }
}

impl SlotContext {
    /// Reports the outcome to the coordinator. Retries until the call succeeds, the lease is gone
    /// or the time limit is reached. Returns the next tasks, if the coordinator leased any with its
    /// answer.
    pub(crate) async fn report(
        &self,
        lease: &v1::LeaseRef,
        outcome: Outcome,
        trace: Context,
    ) -> Vec<Leased> {
        match &outcome {
            Outcome::Lost => return Vec::new(),
            Outcome::Fail(failure) => {
                warn!(kind = ?failure.kind, reason = failure.message, "attempt failed");
            }
            Outcome::Release => info!("lease is released unfinished"),
            Outcome::Complete(_) => {}
        }
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let began = Instant::now();
        loop {
            let call = self.send(lease, &outcome, trace);
            let sent = tokio::time::timeout(CALL_TIMEOUT, call).await;
            let sent = sent.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer")));
            match sent {
                Ok(next) => return next,
                Err(status) if is_transient(&status) && began.elapsed() < self.report_limit() => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(status) => {
                    info!(code = ?status.code(), error = status.message(), "report was rejected");
                    return Vec::new();
                }
            }
        }
    }

    /// The time limit, evaluated before each retry: the worker may be asked to stop meanwhile.
    fn report_limit(&self) -> Duration {
        match self.shutdown.is_cancelled() {
            true => STOPPING_LIMIT,
            false => self.options.patience,
        }
    }

    async fn send(
        &self,
        lease: &v1::LeaseRef,
        outcome: &Outcome,
        trace: Context,
    ) -> Result<Vec<Leased>, tonic::Status> {
        let mut client = self.client.clone();
        let (worker, lease) = (self.options.worker.to_string(), Some(lease.clone()));
        match outcome {
            Outcome::Complete(completion) => {
                let requested_at = Instant::now();
                let next = match self.shutdown.is_cancelled() {
                    true => None,
                    false => Some(self.lease_request(Duration::ZERO).await),
                };
                let tag = next.as_ref().map_or(0, |next| next.cached_tag);
                let request = v1::CompleteRequest {
                    worker,
                    lease,
                    mine: completion.mine,
                    next,
                    recipe_published: completion.recipe_published,
                };
                let answer = client.complete(traced(request, trace)).await?;
                let (metadata, answer, _) = answer.into_parts();
                let next = answer.next;
                let next = next.map(|next| self.leased(&metadata, next, tag, requested_at));
                return Ok(next.unwrap_or_default());
            }
            Outcome::Fail(failure) => {
                let request = v1::FailRequest {
                    worker,
                    lease,
                    kind: v1::FailureKind::from(failure.kind) as i32,
                    message: failure.message.clone(),
                };
                client.fail(traced(request, trace)).await?;
            }
            Outcome::Release => {
                let request = v1::ReleaseRequest { worker, lease };
                client.release(traced(request, trace)).await?;
            }
            Outcome::Lost => {}
        }
        Ok(Vec::new())
    }
}

/// A request about an attempt, as a part of the attempt's trace.
fn traced<T>(message: T, trace: Context) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    trace.child().append_to(request.metadata_mut());
    request
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn failure(kind: FailureKind) -> Result<Completion, Failure> {
        Err(Failure {
            kind,
            message: "why".to_owned(),
        })
    }

    fn control() -> Control {
        Control::new(CancellationToken::new(), CancellationToken::new())
    }

    #[test]
    fn a_failure_is_reported_unless_the_worker_stops() {
        let transient = || failure(FailureKind::Transient);
        let working = control();
        let outcome = Outcome::new(transient(), &working);
        assert!(matches!(outcome, Outcome::Fail(_)), "{outcome:?}");
        let stopping = control();
        stopping.stop.cancel();
        let outcome = Outcome::new(transient(), &stopping);
        assert!(matches!(outcome, Outcome::Release), "{outcome:?}");
        let outcome = Outcome::new(failure(FailureKind::BadInput), &stopping);
        assert!(matches!(outcome, Outcome::Fail(_)), "{outcome:?}");
        stopping.cancel.cancel();
        let outcome = Outcome::new(failure(FailureKind::PoisonShard), &stopping);
        assert!(matches!(outcome, Outcome::Release), "{outcome:?}");
    }

    #[test]
    fn only_a_commit_is_reported_for_a_lost_lease() {
        let lost = control();
        lost.lose();
        assert!(lost.cancel.is_cancelled());
        let outcome = Outcome::new(failure(FailureKind::BadInput), &lost);
        assert!(matches!(outcome, Outcome::Lost), "{outcome:?}");
        let completion = Completion {
            mine: true,
            recipe_published: true,
        };
        let outcome = Outcome::new(Ok(completion), &lost);
        assert!(matches!(outcome, Outcome::Complete(reported) if reported == completion));
    }
}
