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
//! read and written outside of the lock.

mod beat;
pub(crate) mod core;
mod driver;
mod fence;
mod leasing;
mod plan;
mod retry;
mod runs;
mod show;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_dataset::Store;
use capstan_plan::clock::Clock;
use capstan_plan::id::DeviceKind;
use capstan_plan::stage::Stage;
use capstan_runtime::config;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::{Active, Core, Gate};
use crate::error::Error;
use crate::generation;
use crate::machine::{Machine, Policy, State};
use crate::ring::Rendezvous;
use crate::state::{Database, Restored};

pub(crate) use plan::{Survey, Surveyed};
pub use retry::Retried;
pub use runs::Submitted;

/// A running coordinator. Cheap to clone; it stops when its shutdown token is cancelled.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: config::Coordinator,
    pub(crate) store: Store,
    pub(crate) database: Database,
    pub(crate) clock: Arc<dyn Clock>,
    core: Mutex<Core>,
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
        let database = Database::open(&settings.database).await?;
        let started = begin(&store, &database, &settings.database, &*clock).await;
        if started.is_err() {
            // Whoever mends it may open it at once.
            database.close().await;
        }
        let (generation, restored) = started?;
        let policy = Policy::new(
            Duration::from_secs(settings.lease_seconds),
            settings.max_attempts,
            Duration::from_millis(settings.backoff_ms),
            Duration::from_millis(settings.max_backoff_ms),
        );
        let mut core = Core::new(Machine::new(policy, generation));
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
                core: Mutex::new(core),
                pump: Notify::new(),
                shutdown,
                tasks: TaskTracker::new(),
                generation,
            }),
        };
        handle.inner.tasks.spawn(handle.inner.clone().beats());
        handle.inner.tasks.spawn(handle.inner.clone().look_out());
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

    /// Waits until every task of the coordinator has stopped, then closes the database. To be
    /// called after its shutdown token was cancelled.
    ///
    /// # Errors
    /// [`Error::Superseded`] where a newer coordinator is why it stopped.
    pub async fn stopped(&self) -> Result<(), Error> {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.database.close().await;
        match self.inner.lock().gate {
            Gate::Superseded { ours, newer } => Err(Error::Superseded { ours, newer }),
            Gate::Open | Gate::Shut | Gate::Closing => Ok(()),
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
    /// A database that cannot be written ends every run: the commits are safe in the store, and
    /// submitting again goes on from them.
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Superseded`]: nothing was changed. [`Error::Database`].
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
    database: &Database,
    url: &str,
    clock: &dyn Clock,
) -> Result<(u64, Vec<Restored>), Error> {
    let generation = generation::take(store, database, url, clock).await?;
    Ok((generation, database.restore().await?))
}

fn restore(core: &mut Core, restored: Restored, now: Duration) {
    let run = restored.view.run.clone();
    let mut active = Active::new(restored.view);
    for (key, task) in restored.tasks {
        if let (State::Leased(_), Some(stage)) = (&task.state, active.view.stage_mut(&key.stage)) {
            stage.leased.insert(key.shard.clone());
        }
        core.machine.restore(key, task, now);
    }
    core.runs.insert(run, active);
}
