//! Heartbeats, sent from a thread with a runtime of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_plan::id::WorkerId;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_runtime::fault;
use capstan_runtime::health::Readiness;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::{debug, warn};

use crate::assignment::Control;
use crate::error::Error;

/// The leases that are held, with their controls, by attempt and rank.
type Held = HashMap<(String, u32), (v1::LeaseRef, Control)>;

/// Renews the leases that are held until it is dropped.
pub(crate) struct Heartbeat {
    held: Arc<Mutex<Held>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Heartbeat {
    pub(crate) fn start(
        endpoint: Endpoint,
        worker: WorkerId,
        period: Duration,
        is_trainer: bool,
        readiness: Readiness,
    ) -> Result<Self, Error> {
        let held = Arc::new(Mutex::new(Held::new()));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let thread = std::thread::Builder::new()
            .name(format!("heartbeat-{worker}"))
            .spawn({
                let (held, stop) = (held.clone(), stop.clone());
                move || {
                    runtime.block_on(async {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = beat(endpoint, worker, period, held, is_trainer, readiness) => {}
                        }
                    });
                }
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            held,
            stop,
            thread: Some(thread),
        })
    }

    /// Adds a lease to those that are renewed.
    pub(crate) fn hold(&self, lease: &v1::LeaseRef, control: &Control) {
        self.lock()
            .insert(key(lease), (lease.clone(), control.clone()));
    }

    /// Removes a lease from those that are renewed.
    pub(crate) fn release(&self, lease: &v1::LeaseRef) {
        self.lock().remove(&key(lease));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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

fn key(lease: &v1::LeaseRef) -> (String, u32) {
    (lease.attempt.clone(), lease.rank)
}

/// Sends a heartbeat every `period` while at least one lease is held.
async fn beat(
    endpoint: Endpoint,
    worker: WorkerId,
    period: Duration,
    held: Arc<Mutex<Held>>,
    is_trainer: bool,
    readiness: Readiness,
) {
    let mut client = CoordinatorClient::new(endpoint.connect_lazy());
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now: Vec<_> = held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        if now.is_empty() {
            continue;
        }
        if !is_trainer {
            fault::point("worker.in_heartbeat");
        }
        let leases = now
            .iter()
            .map(|(lease, control)| control.progress.message(lease))
            .collect();
        let request = v1::HeartbeatRequest {
            worker: worker.to_string(),
            leases,
        };
        match tokio::time::timeout(period, client.heartbeat(request)).await {
            Ok(Ok(response)) => {
                readiness.mark();
                for (status, (lease, control)) in response.into_inner().statuses().zip(&now) {
                    if matches!(status, v1::LeaseStatus::Cancelled | v1::LeaseStatus::Stale) {
                        debug!(attempt = lease.attempt, ?status, "lease is lost");
                        control.lose();
                    }
                }
            }
            // The coordinator may be restarting. It then extends every lease by a full period.
            Ok(Err(status)) => warn!(%worker, error = status.message(), "heartbeat was rejected"),
            Err(_) => warn!(%worker, "heartbeat timed out"),
        }
    }
}
