//! A trainer: one rank of a training gang.
//!
//! Leases its part of a gang through `lease`, meets the other ranks through the coordinator, and
//! runs `train` over the samples that `dataset` indexes. Rank 0 writes checkpoints and the model
//! folder and hands the commit over; the others only compute.
//!
//! ```text
//! lease ─► samples, vocabulary, checkpoint ─► turn ─► JoinRing ─► Ring ─► train ─► model folder
//! ```

mod checkpoint;
mod counts;
mod error;
mod executor;
mod inputs;
mod join;
mod pictures;
mod scratch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_model::DeviceSpec;
use capstan_plan::clock::{Clock, SystemClock};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use error::Error;

/// Everything that a trainer must be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How it presents itself to the coordinator; its one role is training.
    pub lease: capstan_lease::Options,
    /// Where its rank listens for the ring; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other ranks reach it, where that differs from the bound address.
    pub advertise: Option<SocketAddr>,
    /// Limit for meeting the other ranks, and for one exchange between them.
    pub ring_timeout: Duration,
    /// Folder for local copies of models, checkpoints and models under way.
    pub cache: PathBuf,
    /// Folder for `<run>/<stage>.jsonl`, a line per step.
    pub metrics: PathBuf,
    /// Bytes of decoded pictures that the rank keeps.
    pub picture_bytes: u64,
    /// What it computes on.
    pub device: DeviceSpec,
    /// Turns at the processor, shared with other roles of this process; one per thread.
    pub turns: Arc<Semaphore>,
    /// Turns that a rank asks for at most: fewer than its threads where all would wait for ever.
    pub most_turns: usize,
}

/// Works until `shutdown`; then rank 0 of a gang writes a checkpoint of its last applied step, and
/// every rank gives its lease back.
///
/// # Errors
/// [`capstan_lease::Error`] where the coordinator stays away or refuses this trainer.
pub async fn run(
    options: Options,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), capstan_lease::Error> {
    scratch::sweep(&options.cache, SystemClock::new().wall());
    let lease = options.lease.clone();
    let trainer = Arc::new(executor::Trainer::new(options, store.clone()));
    capstan_lease::serve(lease, store, trainer, shutdown).await
}
