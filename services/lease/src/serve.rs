//! The loop of a worker: lease, execute, commit, report.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use capstan_dataset::Store;
use capstan_plan::backoff::Backoff;
use capstan_plan::id::Digest;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::{MAX_MESSAGE_BYTES, v1};
use capstan_runtime::tls::refusal;
use capstan_runtime::trace::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::assignment::Executor;
use crate::error::Error;
use crate::heartbeat::Heartbeat;
use crate::message;
use crate::options::Options;
use crate::session::Session;
use crate::settings::SettingsCache;
use crate::work::{StoreState, panic_text};

/// Most cached base files that a lease request names.
const MAX_CACHED: usize = 1_000;
/// How much longer than the coordinator's wait a lease request may take.
const SLACK: Duration = Duration::from_secs(10);
/// Limit of the delay before the first retry of a call that the coordinator did not answer. It
/// doubles with each further retry.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(50);
/// Limit of every delay between two retries.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// Limit for the last call of a worker.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// Leases, executes, commits and reports until `shutdown`.
///
/// It waits up to `patience` for a store or a coordinator that is not available yet. On shutdown
/// it leases no further tasks, has `grace` to finish or save those that it holds, releases the rest
/// and takes leave of the coordinator. It returns a few seconds after `grace` at the latest.
///
/// # Errors
/// [`Error`] if the store or the coordinator is unavailable, or another process uses the worker's
/// name, for longer than `patience`; if the coordinator rejects the worker; if the program panics.
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
    let session = Session::random();
    let heartbeat = Heartbeat::start(endpoint.clone(), &options, session.clone())?;
    let context = Arc::new(SlotContext {
        client: CoordinatorClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES),
        options,
        session,
        is_name_warned: AtomicBool::new(false),
        store,
        settings: SettingsCache::default(),
        sent_tag: AtomicU64::new(0),
        executor,
        heartbeat,
        shutdown,
        overdue: CancellationToken::new(),
    });
    let mut slots = JoinSet::new();
    for _ in 0..context.options.slots.max(1) {
        slots.spawn(context.clone().slot());
    }
    let grace = tokio::spawn(context.clone().enforce_grace());
    let outcome = join_slots(slots, &context.shutdown).await;
    grace.abort();
    // The grace task holds the last reference to the heartbeat.
    let _ = grace.await;
    context.leave().await;
    outcome
}

/// Waits for every slot. A slot that fails stops the others.
async fn join_slots(
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

/// A task that this worker was given.
pub(crate) struct Leased {
    pub(crate) assignment: v1::Assignment,
    /// The trace of its attempt, if the coordinator sent one.
    pub(crate) trace: Option<Context>,
    /// When the request was sent that it answers.
    pub(crate) requested_at: Instant,
}

/// The state that the slots of a worker share.
pub(crate) struct SlotContext {
    pub(crate) options: Options,
    /// Of this process.
    session: Session,
    /// Whether the worker has warned that another process uses its name.
    is_name_warned: AtomicBool,
    pub(crate) store: Store,
    pub(crate) settings: SettingsCache,
    /// Tag of the list of cached files that the coordinator knows; 0 for none.
    sent_tag: AtomicU64,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) client: CoordinatorClient<Channel>,
    pub(crate) heartbeat: Heartbeat,
    /// Cancelled when the worker is asked to stop.
    pub(crate) shutdown: CancellationToken,
    /// Cancelled when the grace period of a stop is over.
    pub(crate) overdue: CancellationToken,
}

impl SlotContext {
    /// Cancels the tasks that are still running when the grace period of a stop is over.
    async fn enforce_grace(self: Arc<Self>) {
        self.shutdown.cancelled().await;
        let grace_ms = self.options.grace.as_millis() as u64;
        info!(worker = %self.options.worker, grace_ms, "stopping: no further tasks are leased");
        tokio::time::sleep(self.options.grace).await;
        self.overdue.cancel();
    }

    /// The loop of one slot, which executes one task at a time.
    async fn slot(self: Arc<Self>) -> Result<(), Error> {
        let mut last_answer = Instant::now();
        let mut name_taken = None;
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut overload = Backoff::new(FIRST_DELAY, self.options.poll);
        // The first request does not wait for a task: its answer shows that the coordinator is up.
        let mut wait = Duration::ZERO;
        let mut poll = self.options.poll;
        while !self.shutdown.is_cancelled() {
            let requested_at = Instant::now();
            // An answer that has arrived is used, because its leases would otherwise have to
            // expire.
            let leased = tokio::select! {
                biased;
                leased = self.lease(wait) => leased,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            match leased {
                Ok(leased) => {
                    self.options.readiness.mark();
                    backoff.reset();
                    name_taken = None;
                    // An overloaded coordinator keeps no place for this worker and answers at once.
                    if leased.is_empty() && requested_at.elapsed() * 2 < wait {
                        self.pause(overload.next_delay()).await;
                    } else {
                        overload.reset();
                    }
                    let mut queue = VecDeque::from(leased);
                    while let Some(leased) = queue.pop_front() {
                        poll = self.options.poll.min(longest_wait(&leased.assignment));
                        let (store, next) = self.work(leased).await;
                        queue.extend(next);
                        if store == StoreState::Unavailable {
                            self.wait_for_store().await?;
                        }
                    }
                    (last_answer, wait) = (Instant::now(), poll);
                }
                Err(status) if refusal(&status).is_some() => {
                    return Err(Error::Certificate {
                        address: self.options.coordinator.clone(),
                        reason: refusal(&status).unwrap_or_default(),
                    });
                }
                Err(status) if message::is_permanent(&status) => {
                    return Err(Error::Refused(status.message().to_owned()));
                }
                Err(status) if message::is_name_taken(&status) => {
                    let since = *name_taken.get_or_insert_with(Instant::now);
                    last_answer = Instant::now();
                    self.check_name(since, &status)?;
                    self.pause(backoff.next_delay()).await;
                }
                Err(status) => {
                    self.check_patience(last_answer, &status)?;
                    self.pause(backoff.next_delay()).await;
                }
            }
        }
        Ok(())
    }

    /// Waits before another request, or until the worker is asked to stop.
    async fn pause(&self, delay: Duration) {
        let pause = tokio::time::sleep(delay);
        self.shutdown.run_until_cancelled(pause).await;
    }

    /// One lease request, which the coordinator answers within `wait`.
    async fn lease(&self, wait: Duration) -> Result<Vec<Leased>, tonic::Status> {
        let requested_at = Instant::now();
        let request = self.lease_request(wait).await;
        let tag = request.cached_tag;
        let mut client = self.client.clone();
        let answer = client.lease(request);
        match tokio::time::timeout(wait + SLACK, answer).await {
            Ok(answer) => {
                let (metadata, answer, _) = answer?.into_parts();
                Ok(self.leased(&metadata, answer, tag, requested_at))
            }
            Err(_) => Err(tonic::Status::unavailable("no answer to a lease request")),
        }
    }

    /// A request for one task.
    pub(crate) async fn lease_request(&self, wait: Duration) -> v1::LeaseRequest {
        let roles = self.options.roles.iter();
        let cached = self.store.cached(MAX_CACHED).await;
        let tag = tag_of(&cached);
        let is_sent = self.sent_tag.load(Ordering::Relaxed) == tag;
        let cached = cached.iter().filter(|_| !is_sent);
        v1::LeaseRequest {
            worker: self.options.worker.to_string(),
            roles: roles.map(|role| v1::Role::from(*role) as i32).collect(),
            slots: 1,
            device: self.options.device.clone(),
            cached: cached.map(ToString::to_string).collect(),
            wait_ms: wait.as_millis() as u64,
            session: self.session.to_bytes(),
            cached_tag: tag,
        }
    }

    /// The leases of an answer.
    ///
    /// - `tag`: of the list of cached files in the request.
    /// - `requested_at`: when the request was sent.
    pub(crate) fn leased(
        &self,
        metadata: &MetadataMap,
        answer: v1::LeaseResponse,
        tag: u64,
        requested_at: Instant,
    ) -> Vec<Leased> {
        let known = if answer.send_cached { 0 } else { tag };
        self.sent_tag.store(known, Ordering::Relaxed);
        let traces = Context::all_from_metadata(metadata).into_iter();
        let traces = traces.chain(std::iter::repeat(None));
        let leased = answer.assignments.into_iter().zip(traces);
        let leased = leased.map(|(assignment, trace)| Leased {
            assignment,
            trace,
            requested_at,
        });
        leased.collect()
    }

    /// Fails if the coordinator has not answered for longer than the patience.
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

    /// Fails if another process has used this worker's name for longer than the patience. A process
    /// that was killed loses the name after a few heartbeats.
    fn check_name(&self, since: Instant, status: &tonic::Status) -> Result<(), Error> {
        let waited = since.elapsed();
        if waited > self.options.patience {
            return Err(Error::NameTaken {
                waited,
                reason: status.message().to_owned(),
            });
        }
        if !self.is_name_warned.swap(true, Ordering::Relaxed) {
            let patience_seconds = self.options.patience.as_secs();
            warn!(
                worker = %self.options.worker, patience_seconds, error = status.message(),
                "the worker's name is taken: retrying"
            );
        }
        Ok(())
    }

    /// Returns what the coordinator may have leased to this process without its knowledge. If the
    /// call fails, such leases expire.
    async fn leave(&self) {
        let request = v1::LeaveRequest {
            worker: self.options.worker.to_string(),
            session: self.session.to_bytes(),
        };
        let mut client = self.client.clone();
        let left = tokio::time::timeout(LEAVE_LIMIT, client.leave(request)).await;
        let left = left.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer")));
        if let Err(status) = left {
            info!(code = ?status.code(), error = status.message(), "could not take leave");
        }
    }

    /// Waits until the store is available: until then every task would fail.
    async fn wait_for_store(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ready = self.store.ready(self.options.patience) => Ok(ready?),
        }
    }
}

/// A tag of a list of cached files: equal lists have equal tags. 0 for none.
fn tag_of(cached: &[Digest]) -> u64 {
    match cached {
        [] => 0,
        cached => Digest::of_parts(cached.iter().map(|digest| &digest.0[..])).prefix_u64(),
    }
}

/// The longest wait of a request for such a task. A lease ends by the worker's clock a period after
/// it was requested, so at least half of the period must be left when the task arrives.
fn longest_wait(assignment: &v1::Assignment) -> Duration {
    Duration::from_millis(assignment.lease_ms) / 2
}

#[cfg(test)]
mod tests;
