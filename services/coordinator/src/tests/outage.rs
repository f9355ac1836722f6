//! A database that cannot be written, and parts of the coordinator that panic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use capstan_dataset::Store;
use capstan_plan::commit::Summary;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;
use capstan_runtime::health::Readiness;
use tonic::Code;

use super::sandbox::{ManualClock, ONE_TASK, Sandbox};
use crate::machine::Key;
use crate::state::{self, Database, InMemory, Known, Op, Restored, Shards, ViewChange};
use crate::view::RunView;
use crate::{Error, Options};

/// A database whose next writes fail.
#[derive(Debug, Default)]
struct Flaky {
    inner: InMemory,
    failures: AtomicU32,
    /// Fails with a permanent error.
    is_damaged: bool,
}

impl Flaky {
    fn fail(&self, times: u32) {
        self.failures.store(times, Ordering::SeqCst);
    }

    fn next(&self) -> Result<(), state::Error> {
        let left = |left: u32| left.checked_sub(1);
        let failing = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        match failing {
            Err(_) => Ok(()),
            Ok(_) if self.is_damaged => Err(state::Error::Damaged {
                table: "tasks",
                run: "r".to_owned(),
                reason: "state `Redy`".to_owned(),
            }),
            Ok(_) => {
                let full = std::io::Error::other("No space left on device");
                Err(state::Error::Statement(sqlx::Error::Io(full)))
            }
        }
    }
}

#[async_trait]
impl Database for Flaky {
    async fn known(&self) -> Result<Known, state::Error> {
        self.inner.known().await
    }

    async fn know(&self, known: &Known) -> Result<(), state::Error> {
        self.inner.know(known).await
    }

    async fn load(&self) -> Result<Vec<Restored>, state::Error> {
        self.inner.load().await
    }

    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now: i64,
    ) -> Result<(), state::Error> {
        if !ops.is_empty() || !views.is_empty() {
            self.next()?;
        }
        self.inner.append(generation, ops, views, now).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, state::Error> {
        self.inner.runs(limit).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunView>, state::Error> {
        self.inner.run(run).await
    }

    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, state::Error> {
        self.inner.task_jsons(keys).await
    }

    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, state::Error> {
        self.inner.is_listed(run, stage).await
    }

    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, state::Error> {
        self.inner.count_committed(shards).await
    }

    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, state::Error> {
        self.inner.committed(shards).await
    }

    async fn commits(
        &self,
        shards: Shards<'_>,
    ) -> Result<BTreeMap<ShardId, Summary>, state::Error> {
        self.inner.commits(shards).await
    }

    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, state::Error> {
        self.inner.ended_before(unix_ms, limit).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

async fn sandbox(database: Arc<Flaky>, readiness: &Readiness) -> Sandbox {
    let options = Options {
        readiness: readiness.clone(),
        ..Options::default()
    };
    let clock = Arc::new(ManualClock::default());
    Sandbox::start_over(Store::memory(), ("memory", database), clock, options).await
}

/// Waits until the coordinator is not ready.
async fn until_it_fails(readiness: &Readiness) {
    let waits = async {
        while readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits)
        .await
        .expect("it becomes unready");
}

#[tokio::test]
async fn a_database_that_fails_keeps_the_batch_and_rejects_new_work_until_it_recovers() {
    let (database, readiness) = (Arc::new(Flaky::default()), Readiness::lasting());
    let sandbox = sandbox(database.clone(), &readiness).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    assert!(readiness.is_ready());

    database.fail(u32::MAX);
    worker.commit(&held).await;
    let (mut completing, its_lease) = (worker.clone(), held.clone());
    let completing = tokio::spawn(async move { completing.complete(&its_lease).await });
    until_it_fails(&readiness).await;
    let refused = sandbox.submit(ONE_TASK, "other").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(
        refused.message(),
        "the coordinator accepts no new work until its database can be written again: a statement of \
         the database failed: error communicating with database: No space left on device"
    );
    assert!(!readiness.is_ready());
    assert_eq!(
        worker.heartbeat(&held).await,
        v1::LeaseStatus::Stale,
        "committed in memory"
    );
    assert!(
        !completing.is_finished(),
        "events are sent only after the write"
    );
    assert_eq!(sandbox.status("r").await.state(), v1::RunState::Running);

    database.fail(0);
    assert!(completing.await.unwrap().unwrap());
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    assert!(readiness.is_ready());
    sandbox.submit(ONE_TASK, "other").await.unwrap();
    let written = database.run(&"r".into()).await.unwrap().unwrap();
    assert_eq!(written.state, v1::RunState::Done);
    sandbox.stop().await;
}

#[tokio::test]
async fn leases_survive_an_outage_of_many_lease_periods() {
    let (database, readiness) = (Arc::new(Flaky::default()), Readiness::lasting());
    let sandbox = sandbox(database.clone(), &readiness).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    database.fail(2);
    let other = sandbox.submit(ONE_TASK, "other");
    sandbox.clock.advance(Duration::from_secs(600));
    // Rejected or delayed, depending on whether it arrives before or after the first failure.
    let _ = other.await;
    sandbox.looks().await;
    assert_eq!(worker.heartbeat(&held).await, v1::LeaseStatus::Keep);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_damaged_database_stops_the_coordinator_with_the_reason() {
    let database = Arc::new(Flaky {
        is_damaged: true,
        ..Flaky::default()
    });
    let readiness = Readiness::lasting();
    let sandbox = sandbox(database.clone(), &readiness).await;
    database.fail(u32::MAX);
    let refused = sandbox.submit(ONE_TASK, "r").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let stopped = sandbox.stopped().await.unwrap_err();
    let Error::Database(why) = stopped else {
        panic!("{stopped}")
    };
    assert!(
        why.to_string().contains("tasks of run r is damaged"),
        "{why}"
    );
    assert!(!readiness.is_ready());
}

#[tokio::test]
async fn a_coordinator_stops_in_time_although_its_database_fails() {
    let (database, readiness) = (Arc::new(Flaky::default()), Readiness::lasting());
    let sandbox = sandbox(database.clone(), &readiness).await;
    database.fail(u32::MAX);
    let mut client = sandbox.client().await;
    let submitting = tokio::spawn(async move {
        let request = v1::SubmitRunRequest {
            pipeline: Some(v1::submit_run_request::Pipeline::Toml(ONE_TASK.to_owned())),
            ..v1::SubmitRunRequest::default()
        };
        client.submit_run(request).await
    });
    until_it_fails(&readiness).await;
    sandbox.stop().await;
    let refused = submitting.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_part_that_panics_stops_the_coordinator_with_its_message() {
    let (database, readiness) = (Arc::new(Flaky::default()), Readiness::lasting());
    let sandbox = sandbox(database, &readiness).await;
    let inner = &sandbox.handle.inner;
    inner.supervise("the beat", async { panic!("index 3 of {}", 2) });
    let stopped = sandbox.stopped().await.unwrap_err();
    assert_eq!(stopped.to_string(), "the beat panicked: index 3 of 2");
    assert!(!readiness.is_ready());
}
