//! One host within one task: its robots.txt, its pace, its share of requests.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::robots::Robots;

/// Scheme, name and port.
pub(super) type Authority = String;

/// What a task knows of a host.
#[derive(Debug)]
pub(super) struct Host {
    /// Read once, before any other request.
    pub(super) robots: tokio::sync::OnceCell<Robots>,
    /// Requests in flight; one permit where there is a Crawl-delay.
    slots: Arc<Semaphore>,
    /// From the start of one request to the start of the next.
    interval: Duration,
    /// Crawl-delay, once robots.txt was read.
    delay: OnceLock<Duration>,
    /// Held by whoever waits for the next start.
    turn: tokio::sync::Mutex<()>,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    last_start: Option<Instant>,
    /// From Retry-After.
    not_before: Option<Instant>,
}

impl Host {
    pub(super) fn new(interval: Duration, concurrency: usize) -> Self {
        Self {
            robots: tokio::sync::OnceCell::new(),
            slots: Arc::new(Semaphore::new(concurrency)),
            interval,
            delay: OnceLock::new(),
            turn: tokio::sync::Mutex::new(()),
            times: Mutex::default(),
        }
    }

    /// Takes the Crawl-delay of a robots.txt just read: one request at a time from here on.
    pub(super) fn slow_down(&self, delay: Duration) {
        if self.delay.set(delay).is_ok() {
            let spare = self.slots.available_permits().saturating_sub(1);
            self.slots.forget_permits(spare);
        }
    }

    fn interval(&self) -> Duration {
        let delay = self.delay.get().copied().unwrap_or_default();
        self.interval.max(delay)
    }

    /// Waits for a place among the host's requests in flight.
    pub(super) async fn slot(&self) -> OwnedSemaphorePermit {
        let slots = self.slots.clone();
        slots.acquire_owned().await.expect("never closed")
    }

    /// Waits until the host may be asked again, takes one of the task's permits and
    /// notes the start of a request.
    pub(super) async fn start(&self, permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        let _turn = self.turn.lock().await;
        while let Some(due) = self.due() {
            tokio::time::sleep_until(due).await;
        }
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        self.lock().last_start = Some(Instant::now());
        permit
    }

    /// When the next request may start, if not now.
    fn due(&self) -> Option<Instant> {
        let times = self.lock();
        let paced = times.last_start.map(|start| start + self.interval());
        let due = paced.max(times.not_before)?;
        (due > Instant::now()).then_some(due)
    }

    /// Asks nothing of the host for this long.
    pub(super) fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        let mut times = self.lock();
        times.not_before = times.not_before.max(Some(until));
    }

    /// Waits out the interval after the last request, so that whoever asks this host
    /// next, in another task or process, keeps it too.
    pub(super) async fn leave(&self) {
        let last = self.lock().last_start;
        if let Some(last) = last {
            tokio::time::sleep_until(last + self.interval()).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().expect("no panic while held")
    }
}
