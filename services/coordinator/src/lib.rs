//! The coordinator: schedules the stages of runs over workers and trainers.
//!
//! It contains the task machine (pure), the database, the scheduler that expands stages and publishes
//! versions, the rendezvous of training gangs, and the gRPC services. It may call `proto`, `runtime`,
//! `plan` and `dataset`. It never does a stage's work, and workers call it only through `proto`.
//!
//! ```text
//!            gRPC                     one lock                      pure
//!  workers ───────► service, ring ─► scheduler ─► machine    plan::expand ◄─ driver of a run
//!  cli                                  │ │                                       │
//!                              database ┘ └─ watchers        store: commits, recipes, versions
//! ```

mod access;
mod cached;
mod connection;
mod convert;
mod error;
mod generation;
mod limits;
pub mod machine;
mod metrics;
mod rebuild;
mod ring;
mod scheduler;
mod service;
pub mod state;
#[cfg(test)]
mod tests;
mod token;
mod trace;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_plan::clock::SystemClock;
use capstan_proto::v1::coordinator_server::CoordinatorServer;
use capstan_proto::v1::ring_server::RingServer;
use capstan_proto::{MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES};
use capstan_runtime::config;
use capstan_runtime::health::Readiness;
use capstan_runtime::keepalive;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::access::AccessLayer;
use crate::connection::Acceptor;
use crate::limits::{BySize, HEADERS_BYTES, LimitLayer};

pub use access::Access;
pub use error::Error;
pub use rebuild::{Rebuilt, rebuild};
pub use scheduler::{Completion, Handle, Retried, Session, Submitted};

/// Time limit for open connections to end during shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The credentials that callers must present. The configuration has already checked whether other
    /// hosts may reach the listener.
    pub access: Access,
    /// Marked while the coordinator accepts work.
    pub readiness: Readiness,
}

impl Default for Options {
    /// For a listener on loopback: requires no credentials.
    fn default() -> Self {
        Self {
            access: Access::default(),
            readiness: Readiness::lasting(),
        }
    }
}

/// Runs a coordinator on `listener` until `shutdown`.
///
/// # Errors
/// [`Error::Database`], [`Error::Behind`], [`Error::Superseded`], [`Error::Store`]: it cannot start,
/// or must stop; [`Error::Serve`].
pub async fn run(
    settings: config::Coordinator,
    options: Options,
    listener: TcpListener,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let clock = Arc::new(SystemClock::new());
    let handle = Handle::start(settings, store, clock, shutdown.clone()).await?;
    serve(handle, options, listener, shutdown).await
}

/// Marks the coordinator as ready while it accepts work. Never returns.
async fn show_readiness(mut works: watch::Receiver<bool>, readiness: &Readiness) {
    loop {
        match *works.borrow_and_update() {
            true => readiness.mark(),
            false => readiness.unmark(),
        }
        if works.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Serves a coordinator that was started, until `shutdown`, then stops it.
///
/// # Errors
/// [`Error::Serve`].
pub async fn serve(
    handle: Handle,
    options: Options,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CoordinatorServer<Handle>>().await;
    let coordinator = BySize::new(|most_bytes| {
        CoordinatorServer::new(handle.clone())
            .max_decoding_message_size(most_bytes)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    });
    let ring = RingServer::new(handle.clone())
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let settings = &handle.inner.settings;
    let acceptor = Acceptor::new(settings, handle.inner.clock.clone());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.filter_map(move |accepted| {
        let admitted = accepted.map(|stream| acceptor.admit(stream));
        std::future::ready(admitted.transpose())
    });
    let Options { access, readiness } = options;
    // The HTTP/2 library itself limits a flood of streams that are opened and reset (CVE-2023-44487).
    let mut server = Server::builder()
        .max_concurrent_streams(settings.max_streams_per_connection)
        .http2_max_header_list_size(HEADERS_BYTES)
        .http2_keepalive_interval(Some(keepalive::INTERVAL))
        .http2_keepalive_timeout(Some(keepalive::TIMEOUT));
    if let Some(tls) = access.tls() {
        server = server.tls_config(tls)?;
    }
    let server = server
        .layer(LimitLayer)
        .layer(AccessLayer(access))
        .add_service(health)
        .add_service(coordinator)
        .add_service(ring)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let served = capstan_runtime::shutdown::with_grace(&shutdown, GRACE, server);
    let served = tokio::select! {
        served = served => served,
        () = show_readiness(handle.works(), &readiness) => None,
    };
    readiness.unmark();
    // The server may have ended without `shutdown`; then everything else stops too.
    shutdown.cancel();
    let stopped = handle.stopped().await;
    served.unwrap_or(Ok(()))?;
    stopped
}
