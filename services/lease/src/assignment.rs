//! One attempt at a task, from the executor's side.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use capstan_plan::FailureKind;
use capstan_plan::commit::Outputs;
use capstan_plan::failure;
use capstan_plan::id::{Digest, LeaseEpoch};
use capstan_plan::stage::Kind;
use capstan_plan::task::Task;
use capstan_proto::v1;
use capstan_runtime::trace::Context;
use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::count;

/// A task that the coordinator assigned to this worker.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The task.
    pub task: Task,
    /// The settings of its stage.
    pub kind: Arc<Kind>,
    /// The lease with every id that names it. Every report about the attempt carries it.
    pub lease: v1::LeaseRef,
    /// Number of ranks that share the task; 1 for every task but training.
    pub world_size: usize,
    /// Number of this attempt, from 1.
    pub attempt_number: u32,
    /// The trace that the coordinator started for the attempt. Every call about it carries it.
    pub trace: Context,
}

impl Assignment {
    /// The rank within the gang; 0 for every task but training.
    pub fn rank(&self) -> usize {
        self.lease.rank as usize
    }

    /// The lease epoch.
    pub fn lease_epoch(&self) -> LeaseEpoch {
        self.lease.lease_epoch.unwrap_or_default().into()
    }
}

/// The progress of a task. Heartbeats read it; every step increments a metric.
#[derive(Debug, Clone, Default)]
pub struct ProgressCounter(Arc<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    stage: String,
    done: AtomicU64,
    total: AtomicU64,
    unit: Mutex<Unit>,
    waiting: AtomicBool,
}

/// The unit that is counted, and its metric.
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

impl ProgressCounter {
    /// The progress of a task of `stage`, at zero.
    pub(crate) fn new(stage: &str) -> Self {
        Self(Arc::new(ProgressState {
            stage: stage.to_owned(),
            ..ProgressState::default()
        }))
    }

    /// Sets the unit and the total, and resets the number of finished units to 0.
    pub fn begin(&self, unit: &str, total: u64) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        let mut current = self.unit();
        if current.name != unit {
            unit.clone_into(&mut current.name);
            current.counter = Some(count::units(&self.0.stage, unit));
        }
    }

    /// Shows another name for the unit, such as `steps, validating` while steps pause. The numbers and
    /// the metric stay those of the unit.
    pub fn show_unit(&self, unit: &str) {
        unit.clone_into(&mut self.unit().name);
    }

    /// Sets the number of units that an earlier attempt finished. They do not increment the metric.
    pub fn resume_at(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Sets the number of finished units.
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

/// A task that waits; see [`ProgressCounter::wait`].
#[derive(Debug)]
pub struct Waiting(Arc<ProgressState>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Relaxed);
    }
}

/// Progress and cancellation of an attempt, which an executor gets beside its assignment.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// The progress that the executor reports.
    pub progress: ProgressCounter,
    /// Cancelled when the computation must end immediately: the lease is lost or was not renewed in
    /// time, the run is cancelled, or the grace period of a stopping worker is over.
    pub cancel: CancellationToken,
    /// Cancelled when the worker is asked to stop. The executor finishes what takes little time
    /// and saves the rest; `cancel` follows when the grace period is over.
    pub stop: CancellationToken,
    /// Set when the coordinator reports that this worker no longer holds the lease.
    lost: Arc<AtomicBool>,
}

impl Control {
    /// A control whose executor should stop at `stop` and must stop at `cancel`.
    pub(crate) fn new(stop: CancellationToken, cancel: CancellationToken) -> Self {
        Self {
            cancel,
            stop,
            ..Self::default()
        }
    }

    /// The same control, with its progress counted under `stage`.
    pub(crate) fn with_stage(self, stage: &str) -> Self {
        Self {
            progress: ProgressCounter::new(stage),
            ..self
        }
    }

    /// Returns when the worker is asked to stop or the computation must end immediately.
    pub async fn stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.cancel.cancelled() => {}
        }
    }

    /// Marks the lease as lost and cancels the computation. No report follows.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// Whether the lease is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The result of an attempt.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// The outputs, for the commit record.
    pub outputs: Outputs,
    /// Digests of the inputs that were read.
    pub inputs: Vec<Digest>,
    /// CPU time of the work, summed over its threads and ranks.
    pub cpu_seconds: f64,
    /// Wall time of the work, without the time spent waiting for other ranks or for a turn.
    pub wall_seconds: f64,
}

/// Why an attempt failed: the kind, and one line for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the scheduler must treat it.
    pub kind: FailureKind,
    /// The text of the error and of its sources.
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

/// Executes tasks.
#[async_trait::async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Executes one task. Returns `None` if there is nothing to commit (a rank other than 0).
    ///
    /// The future must end soon after `control.cancel`; five seconds later it is dropped.
    ///
    /// # Errors
    /// [`Failure`]. After `control.cancel` its kind does not matter, because it is not reported.
    /// An executor that stops because of `control.stop` returns a transient one, so that the
    /// lease is released.
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_of_the_unit_leaves_the_numbers() {
        let progress = ProgressCounter::new("blip");
        progress.begin("steps", 10);
        progress.set(4);
        let shown = || {
            let message = progress.message(&v1::LeaseRef::default());
            (message.done, message.total, message.unit)
        };
        progress.show_unit("steps, validating");
        assert_eq!(shown(), (4, 10, "steps, validating".to_owned()));
        progress.show_unit("steps");
        assert_eq!(shown(), (4, 10, "steps".to_owned()));
    }
}
