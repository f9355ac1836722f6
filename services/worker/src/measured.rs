//! Work that is no model's, and the CPU time of the threads that did it.
//!
//! What is counted: parsing, decoding, matching, sorting, and the network of a crawl, TLS
//! included. What is not: Parquet files being written and read, which happens on threads that all
//! tasks of the process share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;

use crate::error::Error;

/// What work gave and what it cost.
#[derive(Debug)]
pub(crate) struct Measured<T> {
    pub(crate) value: T,
    pub(crate) cpu_seconds: f64,
}

/// Runs a computation away from the async runtime.
pub(crate) async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Measured<T>, Error> {
    blocking(move || {
        let own = ThreadTime::now();
        let value = work()?;
        Ok(Measured {
            value,
            cpu_seconds: own.elapsed().as_secs_f64(),
        })
    })
    .await
}

/// Runs async work on threads of its own, so that all of their time is its: a runtime that lives
/// as long as the work. Connections that it opens end with it.
pub(crate) async fn on_own_threads<T, F>(work: F) -> Result<Measured<T>, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    blocking(move || {
        let own = ThreadTime::now();
        let others = Arc::new(AtomicU64::new(0));
        let sum = others.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("crawl")
            .on_thread_stop(move || {
                let spent = ThreadTime::now().as_duration();
                sum.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
            })
            .build()
            .map_err(Error::Runtime)?;
        let done = runtime.block_on(work);
        // Waits for its threads: their time is known when they have ended.
        drop(runtime);
        let cpu = own.elapsed() + Duration::from_nanos(others.load(Ordering::Relaxed));
        Ok(Measured {
            value: done?,
            cpu_seconds: cpu.as_secs_f64(),
        })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(Error::Broken(panic.to_string())))
}

#[cfg(test)]
mod tests {
    use capstan_plan::clock::Stopwatch;

    use super::*;

    /// Keeps this thread busy until it has taken so much CPU time.
    fn burn(cpu: Duration) {
        let own = ThreadTime::now();
        while own.elapsed() < cpu {
            std::hint::black_box((0..1_000u64).fold(0, |a, b| a ^ b));
        }
    }

    #[tokio::test]
    async fn the_time_of_every_thread_is_counted_once() {
        let cpu = Duration::from_millis(60);
        let one = computed(move || {
            burn(cpu);
            Ok(())
        });
        assert!(one.await.unwrap().cpu_seconds >= 0.06);
        let began = Stopwatch::start();
        let several = on_own_threads(async move {
            let decoding = (0..3).map(|_| tokio::task::spawn_blocking(move || burn(cpu)));
            let decoding: Vec<_> = decoding.collect();
            // The async part, in a task of its own as a connection has.
            tokio::spawn(async move { burn(cpu) }).await.unwrap();
            for thread in decoding {
                thread.await.unwrap();
            }
            Ok(7)
        });
        let several = several.await.unwrap();
        assert_eq!(several.value, 7);
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        let most = began.seconds() * cores.min(4.0) + 0.05;
        let spent = several.cpu_seconds;
        assert!(
            spent >= 0.24 && spent <= most,
            "{spent} s, at most {most} s"
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_so() {
        let broken = on_own_threads::<(), _>(async { panic!("no such page") }).await;
        assert!(matches!(broken, Err(Error::Broken(_))));
    }
}
