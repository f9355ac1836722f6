//! Computation away from the async runtime: on a blocking thread, in a pool of stated size, with
//! a turn at the processor.

use std::sync::Arc;
use std::time::Instant;

use capstan_model::device::ComputePool;
use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::error::Error;

/// What a computation gave and what it cost.
pub(crate) struct Computed<T> {
    pub(crate) value: T,
    pub(crate) wall_seconds: f64,
    pub(crate) cpu_seconds: f64,
}

/// Runs `work` in a pool of the worker's threads, once it has as many turns.
pub(crate) async fn compute<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&ComputePool) -> Result<T, Error> + Send + 'static,
) -> Result<Computed<T>, Error> {
    let threads = context.threads;
    let turn = turn(context, threads).await?;
    let joined = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let began = Instant::now();
        let pool = Arc::new(ComputePool::new(threads)?);
        let value = work(&pool)?;
        Ok(Computed {
            value,
            wall_seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: pool.cpu_seconds(),
        })
    });
    joined.await.unwrap_or_else(|panic| Err(Error::Broken(panic.to_string())))
}

async fn turn(context: &Context, threads: usize) -> Result<OwnedSemaphorePermit, Error> {
    let semaphore = context.turns.semaphore();
    tokio::select! {
        () = context.control.cancel.cancelled() => Err(Error::Cancelled),
        turn = semaphore.acquire_many_owned(threads as u32) => {
            turn.map_err(|_| Error::Cancelled)
        }
    }
}
