//! The scheduler: runs over workers. Its handle is what the service, the ring and tests call.
//!
//! ```text
//!  submit ─► driver of the run ─► expand ─► adopt or add tasks ─► publish versions ─► done
//!                 ▲ a task ended                  │
//!                 │                               ▼
//!  heartbeat, complete, fail ─►  Core (machine, views)  ◄─ pump: ticks, hands out leases
//!                                      │
//!                                      └─► database, then watchers
//! ```
//!
//! Everything that changes goes through one lock and is in the database before anybody hears of
//! it. The store is read and written outside of the lock.

pub(crate) mod core;
mod driver;
mod leasing;
mod plan;
mod retry;
mod runs;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_runtime::config;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::{Active, Core};
use crate::clock::Clock;
use crate::error::Error;
use crate::generation;
use crate::machine::{Machine, Policy, State};
use crate::ring::Rendezvous;
use crate::state::{Database, Restored};

/// Between two looks at the clock where nothing else happens.
const TICK: Duration = Duration::from_millis(200);

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
    pub(crate) core: Mutex<Core>,
    /// Told when there may be something to hand out.
    pub(crate) pump: Notify,
    pub(crate) shutdown: CancellationToken,
    pub(crate) ring: Rendezvous,
    /// Drivers of runs and the pump.
    tasks: TaskTracker,
    generation: u64,
}

impl Handle {
    /// Starts a coordinator: takes the next generation, and goes on with the runs that its
    /// database knows. Leases of earlier generations get one full period.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Store`].
    pub async fn start(
        settings: config::Coordinator,
        store: Store,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let generation = generation::take(&store, &*clock).await?;
        let database = Database::open(&settings.database).await?;
        let restored = database.restore().await?;
        let policy = Policy {
            lease: Duration::from_secs(settings.lease_seconds),
            max_attempts: settings.max_attempts,
            backoff: Duration::from_millis(settings.backoff_ms),
            max_backoff: Duration::from_millis(settings.max_backoff_ms),
        };
        let mut core = Core::new(Machine::new(policy, generation));
        for run in restored {
            restore(&mut core, run, clock.now());
        }
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
        handle.inner.tasks.spawn(handle.inner.clone().pump());
        for run in handle.inner.core.lock().await.running() {
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
    pub async fn stopped(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.database.close().await;
    }
}

impl Inner {
    /// Writes what changed, then tells watchers.
    ///
    /// A database that cannot be written ends every run: the commits are safe in the store, and
    /// submitting again goes on from them.
    pub(crate) async fn flush(&self, core: &mut Core) -> Result<(), Error> {
        let now = self.clock.unix_ms();
        core.absorb(now);
        if let Err(error) = self.write(core).await {
            tracing::error!(%error, "the database cannot be written");
            for run in core.running() {
                core.end_run(
                    &run,
                    capstan_proto::v1::RunState::Failed,
                    &error.to_string(),
                    now,
                );
            }
            core.send_events();
            return Err(error);
        }
        core.send_events();
        Ok(())
    }

    async fn write(&self, core: &mut Core) -> Result<(), Error> {
        if core.pending.is_empty() && core.dirty.is_empty() {
            return Ok(());
        }
        let dirty = core.dirty.iter();
        let views: Vec<_> = dirty
            .filter_map(|run| Some(&core.runs.get(run)?.view))
            .collect();
        self.database
            .write(&core.pending, &views, self.clock.unix_ms())
            .await?;
        core.written();
        Ok(())
    }
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
