//! A trainer: one rank of a training gang.
//!
//! It leases its part of a gang through `lease`, finds the other ranks through the coordinator, and
//! runs `train` over the samples that `dataset` indexes. Rank 0 writes the checkpoints and the
//! model folder, measures the model by `evaluate` where the stage has `validate`, and returns the
//! output to be committed; the other ranks only compute.
//!
//! ```text
//! lease ─► samples, vocabulary, checkpoint ─► JoinRing ─► turns of the gang ─► Ring ─► train ─► model folder
//! ```

mod checkpoint;
mod counts;
mod error;
mod executor;
mod inputs;
mod join;
mod pictures;
mod record;
mod scratch;
mod validation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_lease::Turns;
use capstan_model::DeviceSpec;
use capstan_plan::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

pub use error::Error;

/// Settings of a trainer.
#[derive(Debug, Clone)]
pub struct Options {
    /// Settings of its leases. Its only role is training.
    pub lease: capstan_lease::Options,
    /// The address that its ring listener binds; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The address at which other ranks reach the listener, if it differs from the bound one.
    pub advertise: Option<SocketAddr>,
    /// Limit for the rendezvous with the other ranks, and for one collective operation.
    pub ring_timeout: Duration,
    /// Folder for local copies of models, for checkpoints and for unfinished models.
    pub cache: PathBuf,
    /// Folder for `<run>/<stage>.jsonl`, with one line per step, and for TensorBoard event files in
    /// `<run>/<stage>/`.
    pub metrics: PathBuf,
    /// Most bytes of decoded pictures that the rank keeps in memory.
    pub picture_bytes: u64,
    /// The device that it computes on.
    pub device: DeviceSpec,
    /// Turns at the processor, shared with the other roles of this process.
    pub turns: Turns,
}

/// Executes training tasks until `shutdown`. Then rank 0 of a gang writes a checkpoint of its last
/// applied step, and every rank releases its lease.
///
/// # Errors
/// [`capstan_lease::Error`] if the coordinator is unavailable or rejects this trainer.
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
