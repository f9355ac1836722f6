//! Heartbeats, sent from a thread with a runtime of its own, and the ends of leases by the clock of
//! this worker.
//!
//! A lease ends by this worker's clock `lease_ms` after the moment at which its grant, or its last
//! heartbeat that succeeded, was *requested*. The coordinator counts from the moment at which it
//! answered, so it does not give the task to another worker before that end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_plan::backoff::Backoff;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_runtime::fault;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

use crate::assignment::Control;
use crate::error::Error;
use crate::options::Options;
use crate::serve::{FIRST_DELAY, LONGEST_DELAY};
use crate::session::Session;

/// The attempt and rank of a lease.
type Key = (String, u32);

/// The periods of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Time between two heartbeats.
    heartbeat: Duration,
    /// How long the work may go on after the last renewal.
    work: Duration,
}

impl Terms {
    /// The terms of an assignment. Work that contacts foreign hosts may go on until its lease ends,
    /// other work for the worker's patience longer.
    pub(crate) fn new(
        assignment: &v1::Assignment,
        contacts_foreign_hosts: bool,
        options: &Options,
    ) -> Self {
        let lease = Duration::from_millis(assignment.lease_ms);
        Self {
            heartbeat: match assignment.heartbeat_ms {
                0 => options.heartbeat,
                period_ms => Duration::from_millis(period_ms),
            },
            work: match contacts_foreign_hosts {
                true => lease,
                false => lease + options.patience,
            },
        }
    }
}

/// A lease that is held.
struct HeldLease {
    lease: v1::LeaseRef,
    control: Control,
    terms: Terms,
    /// When the grant, or the last heartbeat that was answered, was requested.
    renewed_at: Instant,
    /// Ends the work in time. Aborted when the lease is no longer held.
    _end: AbortOnDropHandle<()>,
}

/// The leases that are held.
#[derive(Default)]
struct Held {
    leases: Mutex<HashMap<Key, HeldLease>>,
    /// Notified when a lease is added.
    added: Notify,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, HeldLease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease. `runtime` runs the task that ends its work in time.
    fn add(
        self: &Arc<Self>,
        runtime: &Handle,
        lease: &v1::LeaseRef,
        control: &Control,
        terms: Terms,
        requested_at: Instant,
    ) {
        let mut leases = self.lock();
        let end = runtime.spawn(self.clone().end(key(lease)));
        let held = HeldLease {
            lease: lease.clone(),
            control: control.clone(),
            terms,
            renewed_at: requested_at,
            _end: AbortOnDropHandle::new(end),
        };
        leases.insert(key(lease), held);
        drop(leases);
        self.added.notify_one();
    }

    /// Cancels the work of a lease that was not renewed in time.
    async fn end(self: Arc<Self>, key: Key) {
        loop {
            let end = match self.lock().get(&key) {
                Some(held) => held.renewed_at + held.terms.work,
                None => return,
            };
            if Instant::now() < end {
                sleep_until(end).await;
                continue;
            }
            if let Some(held) = self.lock().get(&key) {
                warn!(
                    attempt = held.lease.attempt,
                    "the lease was not renewed in time: its work stops"
                );
                held.control.cancel.cancel();
            }
            return;
        }
    }

    /// The shortest period of the leases, and when the next heartbeat is due. `None` if no lease is
    /// held.
    fn next(&self) -> Option<(Duration, Instant)> {
        let leases = self.lock();
        let period = leases.values().map(|held| held.terms.heartbeat).min()?;
        let due = leases
            .values()
            .map(|held| held.renewed_at + held.terms.heartbeat)
            .min()?;
        Some((period, due))
    }

    /// Applies the answer to a heartbeat that was requested at this moment.
    fn apply(&self, key: &Key, status: v1::LeaseStatus, requested_at: Instant) {
        if let Some(held) = self.lock().get_mut(key) {
            held.renewed_at = requested_at;
            if matches!(status, v1::LeaseStatus::Cancelled | v1::LeaseStatus::Stale) {
                debug!(attempt = held.lease.attempt, ?status, "lease is lost");
                held.control.lose();
            }
        }
    }
}

/// Renews the leases that are held until it is dropped.
pub(crate) struct Heartbeat {
    held: Arc<Held>,
    runtime: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Heartbeat {
    pub(crate) fn start(
        endpoint: Endpoint,
        options: &Options,
        session: Session,
    ) -> Result<Self, Error> {
        let held = Arc::new(Held::default());
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name(format!("heartbeat-{}", options.worker))
            .spawn({
                let (held, stop, options) = (held.clone(), stop.clone(), options.clone());
                move || {
                    runtime.block_on(async {
                        let client = CoordinatorClient::new(endpoint.connect_lazy());
                        stop.run_until_cancelled(beat(client, &options, &session, &held))
                            .await
                    });
                }
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            held,
            runtime: handle,
            stop,
            thread: Some(thread),
        })
    }

    /// Adds a lease to those that are renewed.
    ///
    /// - `requested_at`: when the request was sent that the lease answers.
    pub(crate) fn hold(
        &self,
        lease: &v1::LeaseRef,
        control: &Control,
        terms: Terms,
        requested_at: Instant,
    ) {
        self.held
            .add(&self.runtime, lease, control, terms, requested_at);
    }

    /// Removes a lease from those that are renewed.
    pub(crate) fn release(&self, lease: &v1::LeaseRef) {
        self.held.lock().remove(&key(lease));
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn key(lease: &v1::LeaseRef) -> Key {
    (lease.attempt.clone(), lease.rank)
}

/// Sends a heartbeat whenever one is due, at most two per period.
async fn beat(
    mut client: CoordinatorClient<Channel>,
    options: &Options,
    session: &Session,
    held: &Held,
) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut earliest = Instant::now();
    loop {
        let Some((period, due)) = held.next() else {
            held.added.notified().await;
            continue;
        };
        tokio::select! {
            () = held.added.notified() => continue,
            () = sleep_until(due.max(earliest)) => {}
        }
        if !options.is_trainer() {
            fault::point("worker.in_heartbeat");
        }
        let requested_at = Instant::now();
        let request = HeartbeatCall {
            options,
            session,
            limit: period,
            requested_at,
        };
        let answered = request.send(&mut client, held).await;
        earliest = match answered {
            true => {
                backoff.reset();
                requested_at + period / 2
            }
            false => Instant::now() + backoff.next_delay().min(period),
        };
    }
}

/// One heartbeat.
struct HeartbeatCall<'a> {
    options: &'a Options,
    session: &'a Session,
    /// Limit for the answer.
    limit: Duration,
    requested_at: Instant,
}

impl HeartbeatCall<'_> {
    /// Sends a heartbeat for every lease. Returns whether the coordinator answered within the limit.
    async fn send(self, client: &mut CoordinatorClient<Channel>, held: &Held) -> bool {
        let (keys, leases) = {
            let leases = held.lock();
            let message = |held: &HeldLease| held.control.progress.message(&held.lease);
            let each = leases
                .iter()
                .map(|(key, held)| (key.clone(), message(held)));
            each.unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let worker = &self.options.worker;
        let request = v1::HeartbeatRequest {
            worker: worker.to_string(),
            leases,
            session: self.session.to_bytes(),
        };
        match tokio::time::timeout(self.limit, client.heartbeat(request)).await {
            Ok(Ok(response)) => {
                self.options.readiness.mark();
                for (status, key) in response.into_inner().statuses().zip(&keys) {
                    held.apply(key, status, self.requested_at);
                }
                true
            }
            // The coordinator may be restarting. It then extends every lease by a full period.
            Ok(Err(status)) => {
                warn!(%worker, error = status.message(), "heartbeat was rejected");
                false
            }
            Err(_) => {
                warn!(%worker, "heartbeat timed out");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
