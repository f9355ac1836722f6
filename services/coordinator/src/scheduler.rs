//! The scheduler of runs. [`Handle`] is its API for the service, the ring and tests.
//!
//! ```text
//!  submit ─► driver of the run ─► expand ─► adopt or add tasks ─► publish versions ─► done
//!                 ▲ a task ended                  │
//!                 │                               ▼
//!  heartbeat, complete, fail ─►  Core (machine, views)  ◄─ beat: ticks, grants, takes the batch
//!                                                              │
//!                       answers, events, leases  ◄─ database ◄─┘
//! ```
//!
//! One lock guards all mutable state. It is never held across an `await`. A request is answered after
//! its changes are in the database. Changes that are made while the database writes form the next
//! batch, so one transaction serves many requests. The store is read and written outside of the
//! lock. Every `select!` is `biased`, so that a simulation with one seed has one history.

mod beat;
pub(crate) mod core;
mod driver;
mod fence;
mod leasing;
mod plan;
mod prune;
mod retry;
mod runs;
mod sessions;
mod show;
mod supervise;
mod texts;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use capstan_dataset::Store;
use capstan_plan::clock::Clock;
use capstan_plan::id::DeviceKind;
use capstan_plan::stage::Stage;
use capstan_runtime::config;
use tokio::sync::{Notify, Semaphore, watch as watching};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::{Core, Gate};
use crate::cached::CachedLists;
use crate::error::Error;
use crate::generation;
use crate::machine::{Machine, Policy, State};
use crate::ring::Rendezvous;
use crate::state::{Database, Restored, Sqlite};
use crate::token::Tokens;

pub use leasing::Completion;
pub(crate) use plan::{Survey, Surveyed};
pub use retry::Retried;
pub use runs::Submitted;
pub use sessions::Session;

/// Time limit for the tasks of a coordinator to stop.
const STOP: Duration = Duration::from_secs(10);

/// A running coordinator. Cheap to clone; it stops when its shutdown token is cancelled.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: config::Coordinator,
    pub(crate) store: Store,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    core: Mutex<Core>,
    /// Whether new work is accepted: false while the database cannot be written, and during shutdown.
    works: watching::Sender<bool>,
    pub(crate) tokens: Tokens,
    pub(crate) cached: CachedLists,
    /// One permit for each stream of events.
    watchers: Arc<Semaphore>,
    /// Notified when there is something to write or to lease.
    pub(crate) pump: Notify,
    pub(crate) shutdown: CancellationToken,
    pub(crate) ring: Rendezvous,
    /// Drivers of runs, the beat and the watch over generations.
    tasks: TaskTracker,
    generation: u64,
    /// How long the database may fail before the coordinator stops. Unset: it waits.
    outage_limit: OnceLock<Duration>,
}

impl Handle {
    /// Stops the coordinator with the database's error once the database has failed for `limit`. Without
    /// a limit it waits, as a service should, until an operator has freed space.
    pub fn limit_outage(&self, limit: Duration) {
        let _ = self.inner.outage_limit.set(limit);
    }

    /// Starts a coordinator: takes the next generation and resumes the running runs of the database.
    /// Leases of earlier generations are valid for one more lease period.
    ///
    /// # Errors
    /// [`Error::Database`]: another coordinator has locked it, or it cannot be read.
    /// [`Error::Behind`]: the store's newest generation was not taken with this database.
    /// [`Error::Store`].
    pub async fn start(
        settings: config::Coordinator,
        store: Store,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let database = Sqlite::open(&settings.database).await?;
        Self::start_over(settings, store, Arc::new(database), clock, shutdown).await
    }

    /// [`Handle::start`] with a database that is open.
    ///
    /// # Errors
    /// Those of [`Handle::start`].
    pub async fn start_over(
        settings: config::Coordinator,
        store: Store,
        database: Arc<dyn Database>,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let started = begin(&store, &*database, &settings.database, &*clock).await;
        if started.is_err() {
            // Release the lock, so that another process can repair the database.
            database.close().await;
        }
        let (generation, tokens, restored) = started?;
        let policy = Policy::new(
            Duration::from_secs(settings.lease_seconds),
            settings.max_attempts,
            Duration::from_millis(settings.backoff_ms),
            Duration::from_millis(settings.max_backoff_ms),
        );
        let mut core = Core::new(Machine::new(policy, generation), clock.now());
        for run in restored {
            restore(&mut core, run, clock.now());
        }
        let running = core.running();
        let handle = Self {
            inner: Arc::new(Inner {
                ring: Rendezvous::new(Duration::from_secs(settings.ring_join_seconds)),
                settings,
                store,
                database,
                clock,
                policy,
                core: Mutex::new(core),
                works: watching::Sender::new(true),
                tokens,
                cached: CachedLists::default(),
                watchers: Arc::new(Semaphore::new(watch::WATCHERS)),
                pump: Notify::new(),
                shutdown,
                tasks: TaskTracker::new(),
                generation,
                outage_limit: OnceLock::new(),
            }),
        };
        let inner = &handle.inner;
        inner.supervise("the beat", inner.clone().beats());
        inner.supervise(
            "the watch over generations",
            inner.clone().watch_generation(),
        );
        for run in running {
            tracing::info!(%run, generation, "resuming a run");
            handle.spawn_driver(run);
        }
        Ok(handle)
    }

    /// The generation of this start. Every lease epoch contains it.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Whether the coordinator accepts new work: false while its database cannot be written, and
    /// during shutdown.
    pub fn works(&self) -> watching::Receiver<bool> {
        self.inner.works.subscribe()
    }

    /// Waits until every task of the coordinator has stopped, then closes the database. Call it after
    /// the shutdown token is cancelled.
    ///
    /// # Errors
    /// The reason if it stopped without a request: [`Error::Superseded`], [`Error::Database`],
    /// [`Error::Panicked`].
    pub async fn stopped(&self) -> Result<(), Error> {
        self.inner.tasks.close();
        if tokio::time::timeout(STOP, self.inner.tasks.wait())
            .await
            .is_err()
        {
            // The next start resumes whatever this work has not finished.
            tracing::warn!("background tasks did not stop in time and were abandoned");
        }
        self.inner.database.close().await;
        let mut core = self.inner.lock();
        match (core.broken.take(), core.gate) {
            (Some(why), _) => Err(why),
            (None, Gate::Superseded { ours, newer }) => Err(Error::Superseded { ours, newer }),
            (None, _) => Ok(()),
        }
    }
}

impl Inner {
    /// Locks the state without checking the gate.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is a bug that ends one request. The maps stay consistent.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`].
    pub(crate) fn core(&self) -> Result<MutexGuard<'_, Core>, Error> {
        let core = self.lock();
        core.gate.check()?;
        Ok(core)
    }

    /// Fails while the database cannot be written: new work is rejected.
    ///
    /// # Errors
    /// [`Error::Halted`]; those of [`Inner::core`].
    pub(crate) fn check_accepts_work(&self) -> Result<(), Error> {
        match &self.core()?.halted {
            Some(why) => Err(Error::Halted(why.clone())),
            None => Ok(()),
        }
    }

    /// The device kind for a stage that computes with models: its setting, else the most common kind
    /// among the live workers of its role. `None` if there is no such worker.
    ///
    /// # Errors
    /// Those of [`Inner::core`].
    pub(crate) fn device_for(&self, stage: &Stage) -> Result<Option<DeviceKind>, Error> {
        if stage.device.is_some() {
            return Ok(stage.device.clone());
        }
        let role = stage.kind.settings().role();
        let now = self.clock.now();
        Ok(self.core()?.machine.common_device(role, now))
    }

    /// Changes the state. Returns after all pending changes are in the database. While the database
    /// cannot be written, it waits.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]: nothing was changed. [`Error::Database`]: the
    /// coordinator shuts down, and the change was not written.
    pub(crate) async fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> Result<T, Error> {
        let (answer, written) = {
            let mut core = self.core()?;
            let answer = change(&mut core);
            core.apply_changes(self.clock.unix_ms());
            (answer, core.written())
        };
        let Some(written) = written else {
            return Ok(answer);
        };
        self.pump.notify_one();
        match written.await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(error)) => Err(Error::Database(error)),
            Err(_) => Err(self.core().err().unwrap_or(Error::Closing)),
        }
    }
}

async fn begin(
    store: &Store,
    database: &dyn Database,
    url: &str,
    clock: &dyn Clock,
) -> Result<(u64, Tokens, Vec<Restored>), Error> {
    let (generation, tokens) = generation::take(store, database, url, clock).await?;
    Ok((generation, tokens, database.load().await?))
}

fn restore(core: &mut Core, restored: Restored, now: Duration) {
    let mut view = restored.view;
    for (key, task) in restored.tasks {
        if let (State::Leased(_), Some(stage)) = (&task.state, view.stage_mut(&key.stage)) {
            stage.leased.insert(key.shard.clone());
        }
        core.machine.restore(key, task, now);
    }
    core.insert_run(view);
}
