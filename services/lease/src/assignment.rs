//! One try of one task, as the executor sees it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use capstan_plan::FailureKind;
use capstan_plan::commit::Outputs;
use capstan_plan::failure;
use capstan_plan::id::{Digest, LeaseEpoch};
use capstan_plan::task::Task;
use capstan_proto::v1;
use capstan_runtime::trace::Context;
use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::count;

/// What the coordinator assigned.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The task.
    pub task: Task,
    /// The lease by everything that names it; goes back in every answer.
    pub lease: v1::LeaseRef,
    /// Ranks that hold this task together; 1 for all but training.
    pub world_size: usize,
    /// Which try this is, from 1.
    pub attempt_number: u32,
    /// The trace that the coordinator began for the attempt; goes back with every call about it.
    pub trace: Context,
}

impl Assignment {
    /// The rank within the gang; 0 for all but training.
    pub fn rank(&self) -> usize {
        self.lease.rank as usize
    }

    /// The epoch of the lease.
    pub fn lease_epoch(&self) -> LeaseEpoch {
        self.lease.lease_epoch.unwrap_or_default().into()
    }
}

/// How far a task is; read by the heartbeat, and counted as it goes on.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    stage: String,
    done: AtomicU64,
    total: AtomicU64,
    unit: Mutex<Unit>,
    waiting: AtomicBool,
}

/// What is counted, and the counter behind it.
#[derive(Default)]
struct Unit {
    name: String,
    counter: Option<Counter>,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Progress {
    /// Of a task of this stage.
    pub(crate) fn of(stage: &str) -> Self {
        Self(Arc::new(ProgressState {
            stage: stage.to_owned(),
            ..ProgressState::default()
        }))
    }

    /// Says what is counted and how many there are; begins at none done.
    pub fn begin(&self, unit: &str, total: u64) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        let mut current = self.unit();
        if current.name != unit {
            unit.clone_into(&mut current.name);
            current.counter = Some(count::units(&self.0.stage, unit));
        }
    }

    /// Says how many an earlier attempt has done: they stand, but are not counted as work.
    pub fn resume_at(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Says how many are done.
    pub fn set(&self, done: u64) {
        let before = self.0.done.swap(done, Ordering::Relaxed);
        if let Some(counter) = &self.unit().counter {
            counter.increment(done.saturating_sub(before));
        }
    }

    /// Marks the task as waiting for as long as the result is kept: for a turn at the processor, or
    /// for the other ranks. Watchers do not count that time as work.
    pub fn wait(&self) -> Waiting {
        self.0.waiting.store(true, Ordering::Relaxed);
        Waiting(self.0.clone())
    }

    fn unit(&self) -> std::sync::MutexGuard<'_, Unit> {
        let unit = self.0.unit.lock();
        unit.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn message(&self, lease: &v1::LeaseRef) -> v1::LeaseProgress {
        v1::LeaseProgress {
            lease: Some(lease.clone()),
            done: self.0.done.load(Ordering::Relaxed),
            total: self.0.total.load(Ordering::Relaxed),
            unit: self.unit().name.clone(),
            waiting: self.0.waiting.load(Ordering::Relaxed),
        }
    }
}

/// A task that waits; see [`Progress::wait`].
#[derive(Debug)]
pub struct Waiting(Arc<ProgressState>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Relaxed);
    }
}

/// What an executor is given beside its assignment.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// To say how far it is.
    pub progress: Progress,
    /// Cancelled when the computation must end at once: the lease is lost, the run is cancelled,
    /// or the worker stops and its grace period is over.
    pub cancel: CancellationToken,
    /// Cancelled when the worker is asked to stop. What can be finished soon is finished, what
    /// can be saved is saved; `cancel` follows when the grace period is over.
    pub stop: CancellationToken,
    /// Set where the coordinator said that the lease is no longer this worker's.
    lost: Arc<AtomicBool>,
}

impl Control {
    /// A lease of a worker that is asked to stop by `stop` and may compute until `cancel`.
    pub(crate) fn new(stop: CancellationToken, cancel: CancellationToken) -> Self {
        Self {
            cancel,
            stop,
            ..Self::default()
        }
    }

    /// The same lease, its progress counted under this stage.
    pub(crate) fn of_stage(self, stage: &str) -> Self {
        Self {
            progress: Progress::of(stage),
            ..self
        }
    }

    /// Returns once the worker is asked to stop, or the computation must end at once.
    pub async fn stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.cancel.cancelled() => {}
        }
    }

    /// The coordinator took the lease away: nobody waits for an answer.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// Whether the coordinator took it away.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What an attempt made.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Goes into the commit record.
    pub outputs: Outputs,
    /// Digests of what was read.
    pub inputs: Vec<Digest>,
    /// CPU time of the work, over all of its threads and ranks.
    pub cpu_seconds: f64,
    /// Wall time of the work, waiting for other ranks or for a turn left out.
    pub wall_seconds: f64,
}

/// Why an attempt failed: its kind, and one line for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the scheduler must treat it.
    pub kind: FailureKind,
    /// What happened.
    pub message: String,
}

impl Failure {
    /// A failure of this kind. The message is the error's text and those of its sources.
    pub fn new(kind: FailureKind, error: &dyn std::error::Error) -> Self {
        Self {
            kind,
            message: failure::chain(error),
        }
    }
}

/// Does the work of a task.
#[async_trait::async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Does it. `None` where there is nothing to commit (a rank other than 0).
    ///
    /// It ends soon after `control.cancel`: five seconds later it is dropped.
    ///
    /// # Errors
    /// [`Failure`]; an executor that was cancelled returns any failure, it is not reported. One
    /// that gives up because of `control.stop` returns a transient one: the lease goes back.
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure>;
}
