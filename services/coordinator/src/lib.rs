//! The coordinator: schedules the stages of runs over workers and trainers.
//!
//! What lives here: the task machine (pure), the database, the scheduler that expands stages and
//! publishes versions, the rendezvous of training gangs, and the gRPC services. It may call
//! `proto`, `runtime`, `plan` and `dataset`; it never does a stage's work, and no worker calls it
//! but through `proto`.
//!
//! ```text
//!            gRPC                     one lock                      pure
//!  workers ───────► service, ring ─► scheduler ─► machine    plan::expand ◄─ driver of a run
//!  cli                                  │ │                                       │
//!                              database ┘ └─ watchers        store: commits, recipes, versions
//! ```

pub mod clock;
mod convert;
mod error;
mod generation;
pub mod machine;
mod ring;
mod scheduler;
mod service;
pub mod state;
#[cfg(test)]
mod tests;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_proto::v1::coordinator_server::CoordinatorServer;
use capstan_proto::v1::ring_server::RingServer;
use capstan_runtime::config;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use error::Error;
pub use scheduler::Handle;

/// Bytes of one message at most: a task names every shard that it reads.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How long open connections may take to end once the coordinator goes down.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a coordinator on `listener` until `shutdown`.
///
/// Whether the listener may be reached by others was checked by the configuration.
///
/// # Errors
/// [`Error`]: the database cannot be opened, the store does not answer, or serving fails.
pub async fn run(
    settings: config::Coordinator,
    listener: TcpListener,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let clock = Arc::new(clock::SystemClock::new());
    let handle = Handle::start(settings, store, clock, shutdown.clone()).await?;
    serve(handle, listener, shutdown).await
}

/// Serves a coordinator that was started, until `shutdown`; then stops it.
///
/// # Errors
/// [`Error::Serve`].
pub async fn serve(
    handle: Handle,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CoordinatorServer<Handle>>().await;
    let coordinator = CoordinatorServer::new(handle.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .add_service(health)
        .add_service(coordinator)
        .add_service(RingServer::new(handle.clone()))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let served = capstan_runtime::shutdown::with_grace(&shutdown, GRACE, server).await;
    // The server may have ended by itself; nothing goes on without it.
    shutdown.cancel();
    handle.stopped().await;
    served.unwrap_or(Ok(()))?;
    Ok(())
}
