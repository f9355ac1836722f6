//! Computation away from the async runtime: on a blocking thread, in a pool of stated size, with
//! a turn at the processor.

use std::time::Duration;

use capstan_lease::Turn;
use capstan_model::ComputePool;
use capstan_plan::clock::Stopwatch;
use cpu_time::ThreadTime;

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
    let span = tracing::Span::current();
    let joined = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let _turn = turn;
        let began = Stopwatch::start();
        let own = ThreadTime::now();
        let pool = ComputePool::new(threads)?;
        let before = cpu_of_threads(&pool);
        let value = work(&pool)?;
        let cpu = cpu_of_threads(&pool).saturating_sub(before) + own.elapsed();
        Ok(Computed {
            value,
            wall_seconds: began.seconds(),
            cpu_seconds: cpu.as_secs_f64(),
        })
    });
    joined
        .await
        .unwrap_or_else(|panic| Err(Error::Broken(panic.to_string())))
}

async fn turn(context: &Context, threads: usize) -> Result<Turn, Error> {
    let _waiting = context.control.progress.wait();
    tokio::select! {
        () = context.control.cancel.cancelled() => Err(Error::Cancelled),
        turn = context.turns.take(threads) => Ok(turn),
    }
}

/// CPU time of a pool's threads since they began.
fn cpu_of_threads(pool: &ComputePool) -> Duration {
    let times = pool.install(|| rayon::broadcast(|_| ThreadTime::now().as_duration()));
    times.into_iter().sum()
}
