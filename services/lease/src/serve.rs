//! The loop of a worker: lease, execute, commit, answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_dataset::Store;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::{MAX_MESSAGE_BYTES, v1};
use capstan_runtime::tls::refusal;
use capstan_runtime::trace::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::info;

use crate::assignment::Executor;
use crate::error::Error;
use crate::heartbeat::Heartbeat;
use crate::message;
use crate::options::Options;
use crate::work::{Worked, panic_text};

/// Cached base files that a question for work names at most.
const CACHED: usize = 1_000;
/// How much longer than the coordinator's own wait a question for work may take.
const SLACK: Duration = Duration::from_secs(10);
/// Before the second question to a coordinator that did not answer; doubled for each further one.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(50);
/// Between two such questions at most.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Works until `shutdown`: asks, executes, commits, answers.
///
/// A store or a coordinator that is not there yet is waited for, `patience` long. On shutdown it
/// leases no more, has `grace` to finish or save what it holds, and gives back what it could not
/// finish; all in all it is gone a few seconds after `grace`.
///
/// # Errors
/// [`Error`] where the store or the coordinator stays away for longer than `patience`, or refuses
/// the worker, or where the program breaks.
pub async fn serve(
    options: Options,
    store: Store,
    executor: Arc<dyn Executor>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let endpoint = options.endpoint()?;
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        ready = store.ready(options.patience) => ready?,
    }
    let heartbeat = Heartbeat::start(
        endpoint.clone(),
        options.worker.clone(),
        options.heartbeat,
        options.is_trainer(),
        options.readiness.clone(),
    )?;
    let session = Arc::new(Session {
        client: CoordinatorClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES),
        options,
        store,
        executor,
        heartbeat,
        shutdown,
        overdue: CancellationToken::new(),
    });
    let mut slots = JoinSet::new();
    for _ in 0..session.options.slots.max(1) {
        slots.spawn(session.clone().slot());
    }
    let grace = tokio::spawn(session.clone().count_grace());
    let outcome = ended(slots, &session.shutdown).await;
    grace.abort();
    // With it goes the last hold on the heartbeat.
    let _ = grace.await;
    outcome
}

/// Waits for every slot; one that fails stops the others.
async fn ended(
    mut slots: JoinSet<Result<(), Error>>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    while let Some(ended) = slots.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(Error::Panicked(panic_text(panic))));
        if ended.is_err() {
            shutdown.cancel();
            outcome = outcome.and(ended);
        }
    }
    outcome
}

/// What the slots of a worker share.
pub(crate) struct Session {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) client: CoordinatorClient<Channel>,
    pub(crate) heartbeat: Heartbeat,
    /// Cancelled when the worker is asked to stop.
    pub(crate) shutdown: CancellationToken,
    /// Cancelled when the grace period of a stop is over.
    pub(crate) overdue: CancellationToken,
}

impl Session {
    /// Ends what goes on longer than the grace period of a stop.
    async fn count_grace(self: Arc<Self>) {
        self.shutdown.cancelled().await;
        let grace_ms = self.options.grace.as_millis() as u64;
        info!(worker = %self.options.worker, grace_ms, "stopping: no more work is taken");
        tokio::time::sleep(self.options.grace).await;
        self.overdue.cancel();
    }

    /// One slot: one task at a time.
    async fn slot(self: Arc<Self>) -> Result<(), Error> {
        let mut last_answer = Instant::now();
        let mut delay = FIRST_DELAY;
        // The first question waits for no work: its answer says that the coordinator is there.
        let mut wait = Duration::ZERO;
        while !self.shutdown.is_cancelled() {
            // An answer that is here already is taken, or its leases would wait to expire.
            let leased = tokio::select! {
                biased;
                leased = self.lease(wait) => leased,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            match leased {
                Ok(assignments) => {
                    self.options.readiness.mark();
                    wait = self.options.poll;
                    for (assignment, trace) in assignments {
                        if self.work(assignment, trace).await == Worked::StoreAway {
                            self.await_store().await?;
                        }
                    }
                    (last_answer, delay) = (Instant::now(), FIRST_DELAY);
                }
                Err(status) if refusal(&status).is_some() => {
                    return Err(Error::Certificate {
                        address: self.options.coordinator.clone(),
                        reason: refusal(&status).unwrap_or_default(),
                    });
                }
                Err(status) if message::is_lasting(&status) => {
                    return Err(Error::Refused(status.message().to_owned()));
                }
                Err(status) => {
                    self.check_patience(last_answer, &status)?;
                    tokio::select! {
                        () = self.shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(delay) => {}
                    }
                    delay = (delay * 2).min(LONGEST_DELAY);
                }
            }
        }
        Ok(())
    }

    /// One question for work, which the coordinator answers within `wait`. Each assignment comes
    /// with the trace that its attempt has.
    async fn lease(
        &self,
        wait: Duration,
    ) -> Result<Vec<(v1::Assignment, Option<Context>)>, tonic::Status> {
        let roles = self.options.roles.iter();
        let cached = self.store.cached(CACHED).await;
        let request = v1::LeaseRequest {
            worker: self.options.worker.to_string(),
            roles: roles.map(|role| v1::Role::from(*role) as i32).collect(),
            slots: 1,
            device: self.options.device.clone(),
            cached: cached.iter().map(ToString::to_string).collect(),
            wait_ms: wait.as_millis() as u64,
        };
        let mut client = self.client.clone();
        let answer = client.lease(request);
        match tokio::time::timeout(wait + SLACK, answer).await {
            Ok(answer) => {
                let (metadata, answer, _) = answer?.into_parts();
                let traces = Context::all_from_metadata(&metadata).into_iter();
                let traces = traces.chain(std::iter::repeat(None));
                Ok(answer.assignments.into_iter().zip(traces).collect())
            }
            Err(_) => Err(tonic::Status::unavailable(
                "no answer to a question for work",
            )),
        }
    }

    /// Gives up on a coordinator that has not answered for too long.
    fn check_patience(&self, last_answer: Instant, status: &tonic::Status) -> Result<(), Error> {
        let waited = last_answer.elapsed();
        if waited <= self.options.patience {
            return Ok(());
        }
        Err(Error::Unreachable {
            address: self.options.coordinator.clone(),
            waited,
            reason: status.message().to_owned(),
        })
    }

    /// Takes no work while the store is away: every task would fail on it.
    async fn await_store(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ready = self.store.ready(self.options.patience) => Ok(ready?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn broken() -> Result<(), Error> {
        panic!("no such index")
    }

    #[tokio::test]
    async fn a_slot_that_panics_stops_the_others_and_is_no_refusal() {
        let shutdown = CancellationToken::new();
        let mut slots = JoinSet::new();
        slots.spawn(broken());
        let stopped = shutdown.clone();
        slots.spawn(async move {
            stopped.cancelled().await;
            Ok(())
        });
        let error = ended(slots, &shutdown).await.unwrap_err();
        assert!(matches!(error, Error::Panicked(_)), "{error}");
        assert!(error.to_string().contains("no such index"), "{error}");
    }
}
