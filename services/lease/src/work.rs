//! The execution of one assignment, from its lease to its commit.

use std::time::Duration;

use capstan_dataset::{commits, lists, recipes};
use capstan_plan::FailureKind;
use capstan_plan::commit::Commit;
use capstan_plan::failure;
use capstan_plan::id::AttemptId;
use capstan_plan::task::Task;
use capstan_proto::v1;
use capstan_runtime::fault;
use capstan_runtime::trace::{Attempt, Context};
use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use crate::assignment::{Assignment, Control, Done, Failure};
use crate::count;
use crate::heartbeat::Terms;
use crate::report::{Completion, Outcome};
use crate::serve::{Leased, SlotContext};

/// How long a cancelled computation may take to end; after that it is dropped.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// What an assignment showed about the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreState {
    /// The store is available, or was not probed.
    Available,
    /// The store does not answer.
    Unavailable,
}

impl SlotContext {
    /// Executes one assignment and reports its outcome, in the span of its attempt. Returns the tasks
    /// that were leased with the report.
    pub(crate) async fn work(&self, leased: Leased) -> (StoreState, Vec<Leased>) {
        let Leased {
            assignment,
            trace,
            requested_at,
        } = leased;
        let Some(lease) = assignment.lease.clone() else {
            warn!("ignored an assignment without a lease");
            return (StoreState::Available, Vec::new());
        };
        let attempt = Attempt {
            run: &lease.run,
            stage: &lease.stage,
            shard: &lease.shard,
            attempt: &lease.attempt,
            rank: lease.rank,
        };
        let trace = trace.unwrap_or_else(|| attempt.context());
        let span = attempt.span(trace);
        self.work_on(assignment, &lease, trace, requested_at)
            .instrument(span)
            .await
    }

    async fn work_on(
        &self,
        assignment: v1::Assignment,
        lease: &v1::LeaseRef,
        trace: Context,
        requested_at: Instant,
    ) -> (StoreState, Vec<Leased>) {
        if !self.options.is_trainer() {
            fault::point("worker.after_lease");
        }
        let (stop, cancel) = (self.shutdown.child_token(), self.overdue.child_token());
        let control = Control::new(stop, cancel).with_stage(&lease.stage);
        let task = serde_json::from_str::<Task>(&assignment.task_json);
        let contacts = matches!(&task, Ok(task) if task.work.contacts_foreign_hosts());
        let terms = Terms::new(&assignment, contacts, &self.options);
        self.heartbeat.hold(lease, &control, terms, requested_at);
        let result = match task {
            // The assignment arrived while the worker was asked to stop.
            Ok(_) if self.shutdown.is_cancelled() => Err(stopped()),
            Ok(task) => match self.settings.of(&self.store, &task).await {
                Ok(kind) => {
                    let assignment = Assignment {
                        task,
                        kind,
                        lease: lease.clone(),
                        world_size: assignment.world_size as usize,
                        attempt_number: assignment.attempt_number,
                        trace,
                    };
                    self.execute_and_commit(assignment, &control).await
                }
                Err(error) => Err(Failure::new(error.kind(), &error)),
            },
            Err(error) => Err(Failure::new(FailureKind::Fatal, &error)),
        };
        let store = self.probe_store(&result, &control).await;
        let outcome = match store {
            StoreState::Unavailable => Outcome::Release,
            StoreState::Available => Outcome::new(result, &control),
        };
        count::ended(&lease.stage, &outcome);
        let next = self.report(lease, outcome, trace).await;
        self.heartbeat.release(lease);
        (store, next)
    }

    /// Executes the task in a tokio task of its own, so that a panic fails the attempt and not
    /// the worker.
    async fn execute_and_commit(
        &self,
        assignment: Assignment,
        control: &Control,
    ) -> Result<Completion, Failure> {
        let (executor, given, held) = (self.executor.clone(), assignment.clone(), control.clone());
        let work = async move { executor.execute(given, held).await };
        let mut executed = tokio::spawn(work.in_current_span());
        let joined = tokio::select! {
            joined = &mut executed => joined,
            () = cancelled_too_long(control) => {
                executed.abort();
                return Err(stopped());
            }
        };
        let done = joined.unwrap_or_else(|panic| {
            Err(Failure {
                kind: FailureKind::PoisonShard,
                message: format!("the program panicked on this shard: {}", panic_text(panic)),
            })
        })?;
        if control.is_lost() {
            return Err(stopped());
        }
        match done {
            // A rank that does not commit has done its part.
            None => Ok(Completion {
                mine: true,
                recipe_published: false,
            }),
            Some(done) => self.commit(&assignment, done).await,
        }
    }

    /// Creates the commit record, and points the task's recipe at it.
    async fn commit(&self, assignment: &Assignment, done: Done) -> Result<Completion, Failure> {
        let task = &assignment.task;
        let outputs = lists::bounded(&self.store, done.outputs).await;
        let outputs = outputs.map_err(|error| Failure::new(error.kind(), &error))?;
        let commit = Commit {
            run: task.run.clone(),
            stage: task.stage.clone(),
            shard: task.shard.clone(),
            attempt: AttemptId(assignment.lease.attempt.clone()),
            worker: self.options.worker.clone(),
            lease_epoch: assignment.lease_epoch(),
            recipe: task.recipe,
            inputs: done.inputs,
            outputs,
            wall_seconds: done.wall_seconds,
            cpu_seconds: done.cpu_seconds,
            adopted: false,
        };
        if !self.options.is_trainer() {
            fault::point("worker.before_commit");
        }
        let committed = commits::commit(&self.store, &commit)
            .await
            .map_err(|error| Failure::new(error.kind(), &error))?;
        fault::point(match self.options.is_trainer() {
            true => "trainer.after_commit",
            false => "worker.after_commit",
        });
        let mine = matches!(committed, commits::Committed::Mine);
        if mine {
            count::committed(task.stage.as_str(), &commit.outputs, commit.wall_seconds);
        }
        let elapsed_ms = (commit.wall_seconds * 1e3) as u64;
        info!(mine, elapsed_ms, "committed");
        let recipe_published = mine && self.publish_recipe(&commit).await;
        Ok(Completion {
            mine,
            recipe_published,
        })
    }

    /// Points the recipe of a commit at it. Returns false if that fails: the coordinator tries again, and
    /// the commit stands.
    async fn publish_recipe(&self, commit: &Commit) -> bool {
        match recipes::publish(&self.store, commit).await {
            Ok(()) => true,
            Err(error) => {
                let error = failure::chain(&error);
                warn!(error, "the recipe was not published");
                false
            }
        }
    }

    /// Whether the store caused a failure. If it is unavailable, the failure is not the task's.
    async fn probe_store(
        &self,
        result: &Result<Completion, Failure>,
        control: &Control,
    ) -> StoreState {
        let may_be = matches!(result, Err(failure) if failure.kind == FailureKind::Transient);
        if !may_be || control.stop.is_cancelled() || control.cancel.is_cancelled() {
            return StoreState::Available;
        }
        match self.store.probe().await {
            Err(error) if error.kind() == FailureKind::Transient => {
                warn!(
                    error = failure::chain(&error),
                    "the store is unavailable: the lease is released"
                );
                StoreState::Unavailable
            }
            _ => StoreState::Available,
        }
    }
}

/// Returns when a cancelled computation has not ended within its limit.
async fn cancelled_too_long(control: &Control) {
    control.cancel.cancelled().await;
    tokio::time::sleep(CANCEL_LIMIT).await;
}

/// The failure of an attempt that was stopped. It is not reported.
fn stopped() -> Failure {
    Failure {
        kind: FailureKind::Transient,
        message: "stopped before it finished".to_owned(),
    }
}

/// The message of a panic.
pub(crate) fn panic_text(panic: tokio::task::JoinError) -> String {
    if !panic.is_panic() {
        return "the task was aborted".to_owned();
    }
    capstan_runtime::panic::text(&*panic.into_panic()).to_owned()
}
