//! A worker: leases tasks and does crawl, curate, caption, filter and evaluate stages.
//!
//! This room is glue. It reads a task's inputs through `dataset`, calls the room whose trade the
//! task is, writes the outputs through `dataset` and hands them to `lease`, which commits them.
//! Nothing here knows how a picture is fetched or a text judged.
//!
//! ```text
//! lease ─► Worker::execute ─► stage::run ─► stage/<kind>.rs
//!                                 │ rows                 ▲ files, models
//!                                 └────── dataset ───────┘
//! ```

mod compute;
mod context;
mod error;
mod executor;
mod fetched;
mod kept;
mod measured;
mod overlays;
mod stage;

use std::sync::Arc;

use capstan_dataset::Store;
use tokio_util::sync::CancellationToken;

pub use context::Options;
pub use error::Error;

/// Works until `shutdown`.
///
/// # Errors
/// [`capstan_lease::Error`] where the coordinator stays away or refuses this worker.
pub async fn run(
    options: Options,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), capstan_lease::Error> {
    let lease = options.lease.clone();
    let models = kept::KeptModels::default();
    let worker = executor::Worker::new(options, store.clone(), models.clone());
    tokio::select! {
        served = capstan_lease::serve(lease, store, Arc::new(worker), shutdown) => served,
        never = models.remove_unused() => match never {},
    }
}
