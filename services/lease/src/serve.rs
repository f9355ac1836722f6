//! The loop of a worker: lease, execute, commit, answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_dataset::{Store, commits};
use capstan_plan::FailureKind;
use capstan_plan::commit::Commit;
use capstan_plan::id::{AttemptId, WorkerId};
use capstan_plan::task::Role;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use crate::assignment::{Assignment, Control, Done, Executor, Failure};
use crate::error::Error;
use crate::heartbeat::Heartbeat;

/// Bytes of one answer at most: a task names every shard that it reads. As the coordinator sends.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How a worker presents itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the coordinator.
    pub coordinator: String,
    /// Name of the worker, unique among live ones.
    pub worker: WorkerId,
    /// What it takes.
    pub roles: Vec<Role>,
    /// Tasks at a time.
    pub slots: usize,
    /// What it computes on.
    pub device: String,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Longest that one question for work waits.
    pub poll: Duration,
    /// How long the coordinator may stay away before the worker gives up.
    pub patience: Duration,
}

/// Works until `shutdown`: asks, executes, commits, answers.
///
/// On shutdown it leases no more, cancels what it holds and hands it back.
///
/// # Errors
/// [`Error`] where the coordinator stays away for longer than `patience`, or refuses the worker.
pub async fn serve(
    options: Options,
    store: Store,
    executor: Arc<dyn Executor>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let endpoint = Endpoint::from_shared(options.coordinator.clone())
        .map_err(|error| Error::Address {
            address: options.coordinator.clone(),
            reason: error.to_string(),
        })?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    let heartbeat = Heartbeat::start(endpoint.clone(), options.worker.clone(), options.heartbeat)?;
    let session = Arc::new(Session {
        client: CoordinatorClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES),
        options,
        store,
        executor,
        heartbeat,
        shutdown,
    });
    let mut slots = tokio::task::JoinSet::new();
    for _ in 0..session.options.slots.max(1) {
        slots.spawn(session.clone().slot());
    }
    let mut outcome = Ok(());
    while let Some(ended) = slots.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(Error::Refused(panic.to_string())));
        if ended.is_err() {
            session.shutdown.cancel();
            outcome = outcome.and(ended);
        }
    }
    outcome
}

struct Session {
    options: Options,
    store: Store,
    executor: Arc<dyn Executor>,
    client: CoordinatorClient<Channel>,
    heartbeat: Heartbeat,
    shutdown: CancellationToken,
}

impl Session {
    /// One slot: one task at a time.
    async fn slot(self: Arc<Self>) -> Result<(), Error> {
        let mut last_answer = Instant::now();
        let mut delay = Duration::from_millis(50);
        loop {
            let leased = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                leased = self.lease() => leased,
            };
            match leased {
                Ok(assignments) => {
                    (last_answer, delay) = (Instant::now(), Duration::from_millis(50));
                    for assignment in assignments {
                        self.work(assignment).await;
                        last_answer = Instant::now();
                    }
                }
                Err(status) if is_lasting(&status) => {
                    return Err(Error::Refused(status.message().to_owned()));
                }
                Err(status) => {
                    let waited = last_answer.elapsed();
                    if waited > self.options.patience {
                        let address = self.options.coordinator.clone();
                        let reason = status.message().to_owned();
                        return Err(Error::Unreachable {
                            address,
                            waited,
                            reason,
                        });
                    }
                    tokio::select! {
                        () = self.shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(delay) => {}
                    }
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// One question for work.
    async fn lease(&self) -> Result<Vec<v1::Assignment>, tonic::Status> {
        let request = v1::LeaseRequest {
            worker: self.options.worker.to_string(),
            roles: self
                .options
                .roles
                .iter()
                .map(|role| role_message(*role) as i32)
                .collect(),
            slots: 1,
            device: self.options.device.clone(),
            cached: Vec::new(),
            wait_ms: self.options.poll.as_millis() as u64,
        };
        let mut client = self.client.clone();
        let answer = client.lease(request);
        let limit = self.options.poll + Duration::from_secs(10);
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => Ok(answer?.into_inner().assignments),
            Err(_) => Err(tonic::Status::unavailable(
                "no answer to a question for work",
            )),
        }
    }

    /// Executes one assignment and answers for it.
    async fn work(&self, assignment: v1::Assignment) {
        let Some(lease) = assignment.lease else {
            warn!("an assignment without a lease is ignored");
            return;
        };
        let control = Control {
            cancel: self.shutdown.child_token(),
            ..Control::default()
        };
        self.heartbeat.hold(&lease, &control);
        let outcome = match serde_json::from_str(&assignment.task_json) {
            Ok(task) => {
                let assignment = Assignment {
                    task,
                    lease: lease.clone(),
                    world_size: assignment.world_size as usize,
                    attempt_number: assignment.attempt_number,
                };
                self.execute_and_commit(assignment, control.clone()).await
            }
            Err(error) => Err(Failure::new(FailureKind::Fatal, &error)),
        };
        self.answer(&lease, outcome, &control).await;
        self.heartbeat.release(&lease);
    }

    /// Executes in a task of its own, so that a panic fails the attempt and not the worker.
    async fn execute_and_commit(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<bool, Failure> {
        let (executor, given) = (self.executor.clone(), assignment.clone());
        let executed = tokio::spawn(async move { executor.execute(given, control).await }).await;
        let done = executed.unwrap_or_else(|panic| {
            Err(Failure {
                kind: FailureKind::PoisonShard,
                message: format!("the program broke on this shard: {}", panic_text(panic)),
            })
        })?;
        match done {
            None => Ok(true),
            Some(done) => self.commit(&assignment, done).await,
        }
    }

    /// Creates the commit record; true where it is this attempt's own.
    async fn commit(&self, assignment: &Assignment, done: Done) -> Result<bool, Failure> {
        let task = &assignment.task;
        let commit = Commit {
            run: task.run.clone(),
            stage: task.stage.clone(),
            shard: task.shard.clone(),
            attempt: AttemptId(assignment.lease.attempt.clone()),
            worker: self.options.worker.clone(),
            lease_epoch: assignment.lease_epoch(),
            recipe: task.recipe,
            inputs: done.inputs,
            outputs: done.outputs,
            wall_seconds: done.wall_seconds,
            cpu_seconds: done.cpu_seconds,
            adopted: false,
        };
        let committed = commits::commit(&self.store, &commit)
            .await
            .map_err(|error| Failure::new(error.kind(), &error))?;
        let mine = matches!(committed, commits::Committed::Mine);
        info!(
            stage = %task.stage, shard = %task.shard, mine,
            elapsed_ms = (commit.wall_seconds * 1e3) as u64, "committed"
        );
        Ok(mine)
    }

    /// Tells the coordinator how it went; tries until it hears or the lease is gone.
    async fn answer(
        &self,
        lease: &v1::LeaseRef,
        outcome: Result<bool, Failure>,
        control: &Control,
    ) {
        let worker = self.options.worker.to_string();
        let mut delay = Duration::from_millis(50);
        let began = Instant::now();
        if control.cancel.is_cancelled() && !self.shutdown.is_cancelled() && outcome.is_err() {
            return;
        }
        loop {
            let mut client = self.client.clone();
            let (worker, lease) = (worker.clone(), Some(lease.clone()));
            let told = match &outcome {
                Ok(mine) => {
                    let request = v1::CompleteRequest {
                        worker,
                        lease,
                        mine: *mine,
                    };
                    client.complete(request).await.map(|_| ())
                }
                Err(failure) => {
                    let kind = self.reported_kind(failure);
                    let message = failure.message.clone();
                    warn!(?kind, message, "attempt failed");
                    let kind = kind_message(kind) as i32;
                    let request = v1::FailRequest {
                        worker,
                        lease,
                        kind,
                        message,
                    };
                    client.fail(request).await.map(|_| ())
                }
            };
            match told {
                Ok(()) => return,
                Err(status) if is_transient(&status) => {
                    let limit = if self.shutdown.is_cancelled() {
                        Duration::from_secs(2)
                    } else {
                        self.options.patience
                    };
                    if began.elapsed() > limit {
                        return;
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
                Err(status) => {
                    info!(code = ?status.code(), message = status.message(), "answer was not taken");
                    return;
                }
            }
        }
    }

    /// What a stopping worker could not finish is somebody else's to do.
    fn reported_kind(&self, failure: &Failure) -> FailureKind {
        if self.shutdown.is_cancelled() {
            FailureKind::Transient
        } else {
            failure.kind
        }
    }
}

fn panic_text(panic: tokio::task::JoinError) -> String {
    if !panic.is_panic() {
        return "the task was aborted".to_owned();
    }
    let panic = panic.into_panic();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn is_transient(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable, Unknown};
    matches!(
        status.code(),
        Unavailable | DeadlineExceeded | Aborted | Cancelled | Unknown
    )
}

fn is_lasting(status: &tonic::Status) -> bool {
    use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(
        status.code(),
        InvalidArgument | PermissionDenied | Unauthenticated | Unimplemented
    )
}

fn role_message(role: Role) -> v1::Role {
    match role {
        Role::Crawl => v1::Role::Crawl,
        Role::Curate => v1::Role::Curate,
        Role::Caption => v1::Role::Caption,
        Role::Filter => v1::Role::Filter,
        Role::Evaluate => v1::Role::Evaluate,
        Role::Train => v1::Role::Train,
    }
}

fn kind_message(kind: FailureKind) -> v1::FailureKind {
    match kind {
        FailureKind::Transient => v1::FailureKind::Transient,
        FailureKind::BadInput => v1::FailureKind::BadInput,
        FailureKind::PoisonShard => v1::FailureKind::PoisonShard,
        FailureKind::WorkerFault => v1::FailureKind::WorkerFault,
        FailureKind::Fatal => v1::FailureKind::Fatal,
    }
}
