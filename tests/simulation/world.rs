//! The world of a history: its time, its faults, its coordinator and what was noted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_coordinator::Handle;
use capstan_coordinator::state::InMemory;
use capstan_dataset::Store;
use capstan_plan::clock::Clock;
use capstan_runtime::config;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::database::Faulty;
use crate::random::Random;
use crate::store;

/// What is known of a history.
#[derive(Debug)]
pub struct History {
    pub log: Vec<String>,
    pub violations: Vec<String>,
    pub lasted: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    seed: u64,
    start: Instant,
    objects: Arc<object_store::memory::InMemory>,
    tables: InMemory,
    faults: Faults,
    current: Mutex<Option<Process>>,
    notes: Mutex<(Vec<String>, Vec<String>)>,
    /// Told when the coordinator goes on after a freeze.
    thawed: Notify,
    /// Draws of the object store.
    store_random: Mutex<Random>,
}

/// Faults that are in force.
#[derive(Default)]
pub struct Faults {
    /// The coordinator's process stands still.
    frozen: Mutex<Frozen>,
    /// The object store answers nobody.
    pub store: AtomicBool,
    /// Requests that the object store does not answer, in thousandths.
    pub store_lossy: AtomicU64,
    /// The database takes nothing.
    pub database: AtomicBool,
    /// Requests lost, in thousandths.
    pub lossy: AtomicU64,
}

#[derive(Default)]
struct Frozen {
    since: Option<Duration>,
    /// Freezes that ended, each from and to.
    before: Vec<(Duration, Duration)>,
}

/// A process of the coordinator. A dead one can reach neither database nor store.
#[derive(Clone)]
pub struct Process {
    pub handle: Handle,
    pub shutdown: CancellationToken,
    pub dead: Arc<AtomicBool>,
}

/// The clock of the coordinator: it stands while the process is frozen.
#[derive(Debug)]
struct FrozenClock {
    world: World,
}

impl Clock for FrozenClock {
    fn now(&self) -> Duration {
        let since = self.world.frozen().since;
        since.unwrap_or_else(|| self.world.now())
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.now()
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({})", self.inner.seed)
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            seed,
            start: Instant::now(),
            objects: Arc::default(),
            tables: InMemory::default(),
            faults: Faults::default(),
            current: Mutex::default(),
            notes: Mutex::default(),
            thawed: Notify::new(),
            store_random: Mutex::new(Random::new(seed, "store")),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn random(&self, actor: &str) -> Random {
        Random::new(self.inner.seed, actor)
    }

    /// Time since the history began, plus a little, so that no moment is zero.
    pub fn now(&self) -> Duration {
        self.inner.start.elapsed() + Duration::from_secs(1)
    }

    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// Whether the object store leaves the next request unanswered.
    pub fn is_store_away(&self) -> bool {
        let faults = self.faults();
        let share = faults.store_lossy.load(Ordering::Relaxed) as f64 / 1_000.0;
        faults.store.load(Ordering::Relaxed)
            || (share > 0.0 && lock(&self.inner.store_random).chance(share))
    }

    /// Notes an event of the history.
    pub fn note(&self, event: impl AsRef<str>) {
        let now = self.now().as_secs_f64();
        let line = format!("{now:10.3} {}", event.as_ref());
        lock(&self.inner.notes).0.push(line);
    }

    /// Notes that something happened that never may.
    pub fn violation(&self, what: String) {
        self.note(format!("VIOLATION {what}"));
        lock(&self.inner.notes).1.push(what);
    }

    pub fn history(&self) -> History {
        let notes = lock(&self.inner.notes);
        History {
            log: notes.0.clone(),
            violations: notes.1.clone(),
            lasted: self.now(),
        }
    }

    /// The store as workers and checks see it.
    pub fn store(&self) -> Store {
        store::open(self, &self.inner.objects, None)
    }

    pub fn tables(&self) -> &InMemory {
        &self.inner.tables
    }

    /// Starts a coordinator over the database and the store of this world.
    pub async fn start(&self) -> Result<(), capstan_coordinator::Error> {
        let dead = Arc::new(AtomicBool::new(false));
        let shutdown = CancellationToken::new();
        let database = Faulty::new(self, dead.clone());
        let store = store::open(self, &self.inner.objects, Some(dead.clone()));
        let clock = Arc::new(FrozenClock {
            world: self.clone(),
        });
        let starting = Handle::start_over(
            settings(),
            store,
            Arc::new(database),
            clock,
            shutdown.clone(),
        );
        let handle = starting.await?;
        self.note(format!(
            "coordinator of generation {} is there",
            handle.generation()
        ));
        *lock(&self.inner.current) = Some(Process {
            handle,
            shutdown,
            dead,
        });
        Ok(())
    }

    /// The coordinator, if there is one.
    pub fn process(&self) -> Option<Process> {
        lock(&self.inner.current).clone()
    }

    /// Takes the coordinator away; it is up to the caller how it ends.
    pub fn take_process(&self) -> Option<Process> {
        lock(&self.inner.current).take()
    }

    fn frozen(&self) -> MutexGuard<'_, Frozen> {
        lock(&self.inner.faults.frozen)
    }

    pub fn freeze(&self) {
        let now = self.now();
        self.frozen().since.get_or_insert(now);
    }

    pub fn thaw(&self) {
        let now = self.now();
        let mut frozen = self.frozen();
        if let Some(since) = frozen.since.take() {
            frozen.before.push((since, now));
        }
        drop(frozen);
        self.inner.thawed.notify_waiters();
    }

    /// Waits while the coordinator's process stands still.
    pub async fn thawed(&self) {
        loop {
            let notified = self.inner.thawed.notified();
            if self.frozen().since.is_none() {
                return;
            }
            notified.await;
        }
    }

    /// How long of the time since `from` the coordinator stood still.
    pub fn frozen_since(&self, from: Duration) -> Duration {
        let frozen = self.frozen();
        let open = frozen.since.map(|since| (since, self.now()));
        let all = frozen.before.iter().copied().chain(open);
        all.map(|(since, until)| until.saturating_sub(since.max(from)))
            .sum()
    }

    /// A request to the coordinator over a network that loses requests and answers.
    ///
    /// - `cut`: whether the caller is cut off.
    pub async fn request<T, E: std::fmt::Display>(
        &self,
        random: &mut Random,
        cut: &AtomicBool,
        call: impl AsyncFnOnce(Handle) -> Result<T, E>,
    ) -> Result<T, String> {
        tokio::time::sleep(random.millis(1, 20)).await;
        let share = self.faults().lossy.load(Ordering::Relaxed) as f64 / 1_000.0;
        let (is_lost, is_answer_lost) = (random.chance(share), random.chance(share));
        if is_lost || cut.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return Err("the request is lost".to_owned());
        }
        let answer = tokio::time::timeout(PATIENCE, async {
            self.thawed().await;
            let process = self.process().ok_or("nobody listens")?;
            // The connection breaks with the process.
            let breaks = async {
                while !process.dead.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            let answer = tokio::select! {
                biased;
                answer = call(process.handle.clone()) => answer,
                () = breaks => return Err("the connection broke".to_owned()),
            };
            self.thawed().await;
            answer.map_err(|error| error.to_string())
        });
        let answer = answer
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()));
        tokio::time::sleep(random.millis(1, 20)).await;
        if is_answer_lost || cut.load(Ordering::Relaxed) {
            return Err("the answer is lost".to_owned());
        }
        answer
    }
}

/// How long a request waits for its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// As in production, with more attempts: chaos uses them up, and calm is to end well.
pub fn settings() -> config::Coordinator {
    config::Coordinator {
        database: "sqlite::memory:".to_owned(),
        max_attempts: 12,
        ..config::Coordinator::default()
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
