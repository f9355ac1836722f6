//! The scheduler: runs over workers. Its handle is what the service, the ring and tests call.
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
//! Everything that changes goes through one lock, which is never held while anything is waited
//! for, and is in the database before anybody is answered. What changes while the database
//! writes is written together next, so that one transaction serves many requests. The store is
//! read and written outside of the lock. Every `select!` is `biased`, so that a simulation with one
//! seed has one history.

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
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

pub(crate) use plan::{Survey, Surveyed};
pub use retry::Retried;
pub use runs::Submitted;
pub use sessions::Session;

/// How long the tasks of a coordinator may take to stop.
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
    /// Whether it can take work: false while the database cannot be written, and at the end.
    works: watching::Sender<bool>,
    pub(crate) tokens: Tokens,
    pub(crate) cached: CachedLists,
    /// One permit for each stream of events.
    watchers: Arc<Semaphore>,
    /// Told when there is something to write or to hand out.
    pub(crate) pump: Notify,
    pub(crate) shutdown: CancellationToken,
    pub(crate) ring: Rendezvous,
    /// Drivers of runs, the beat and the lookout.
    tasks: TaskTracker,
    generation: u64,
}

impl Handle {
    /// Starts a coordinator: takes the next generation, and goes on with the runs that its
    /// database knows. Leases of earlier generations get one full period.
    ///
    /// # Errors
    /// [`Error::Database`]: another coordinator has it, or it cannot be read; [`Error::Behind`]:
    /// it is not of the store's newest generation; [`Error::Store`].
    pub async fn start(
        settings: config::Coordinator,
        store: Store,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let database = Sqlite::open(&settings.database).await?;
        Self::start_over(settings, store, Arc::new(database), clock, shutdown).await
    }

    /// [`Handle::start`] over a database that is open.
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
            // The lock is released, so that another process can repair it.
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
            }),
        };
        let inner = &handle.inner;
        inner.supervise("the beat", inner.clone().beats());
        inner.supervise("the watcher of generations", inner.clone().look_out());
        for run in running {
            tracing::info!(%run, generation, "going on with a run");
            handle.spawn_driver(run);
        }
        Ok(handle)
    }

    /// This start's number; every lease of it carries the number.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Whether the coordinator can take work: false while its database cannot be written, and once it
    /// goes down.
    pub fn works(&self) -> watching::Receiver<bool> {
        self.inner.works.subscribe()
    }

    /// Waits until every task of the coordinator has stopped, then closes the database. To be
    /// called after its shutdown token was cancelled.
    ///
    /// # Errors
    /// Why it stopped by itself: [`Error::Superseded`], [`Error::Database`], [`Error::Panicked`].
    pub async fn stopped(&self) -> Result<(), Error> {
        self.inner.tasks.close();
        if tokio::time::timeout(STOP, self.inner.tasks.wait())
            .await
            .is_err()
        {
            // Whatever it waits for, the next start finds the same.
            tracing::warn!("work of the coordinator did not stop in time and is left");
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
    /// The state behind the lock, whatever the gate says.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // What panics under the lock is a bug that ended one request; the maps are whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state behind the lock, to be looked at.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`].
    pub(crate) fn core(&self) -> Result<MutexGuard<'_, Core>, Error> {
        let core = self.lock();
        core.gate.check()?;
        Ok(core)
    }

    /// Refuses new work while the database cannot be written.
    ///
    /// # Errors
    /// [`Error::Halted`]; those of [`Inner::core`].
    pub(crate) fn takes_work(&self) -> Result<(), Error> {
        match &self.core()?.halted {
            Some(why) => Err(Error::Halted(why.clone())),
            None => Ok(()),
        }
    }

    /// What a stage that computes with models would compute on: its setting, else the most common
    /// kind among the live workers of its role. `None` where no such worker is there.
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

    /// Changes the state. Gives the answer once everything that was changed is in the database.
    ///
    /// While the database cannot be written, this waits until it can.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]: nothing was changed. [`Error::Database`]: the
    /// coordinator goes down, and the change was not written.
    pub(crate) async fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> Result<T, Error> {
        let (answer, written) = {
            let mut core = self.core()?;
            let answer = change(&mut core);
            core.absorb(self.clock.unix_ms());
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
