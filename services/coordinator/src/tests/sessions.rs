//! Names and sessions: which process has a worker's name, and what happens to its leases when it leaves.

use std::time::{Duration, Instant};

use capstan_plan::task::Role;
use capstan_proto::v1;
use tonic::Code;

use super::sandbox::{GANG, ONE_TASK, Sandbox, Worker};
use crate::Session;
use crate::machine::Offer;

const LIMIT: Duration = Duration::from_secs(30);
/// Heartbeat period of the sandbox.
const HEARTBEAT: Duration = Duration::from_secs(1);
const TAKEN: &str = "another process uses the worker name `w1`: give each worker and trainer a \
                     `name` of its own";

/// Another process with the name of this worker.
fn namesake(worker: &Worker) -> Worker {
    let mut namesake = worker.clone();
    namesake.session = b"another process".to_vec();
    namesake
}

async fn assert_refused(worker: &mut Worker) {
    let refused = worker.ask(0).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::AlreadyExists, TAKEN)
    );
}

/// Waits until this many requests wait for tasks.
async fn await_waiting(sandbox: &Sandbox, number: usize) {
    let began = Instant::now();
    let waiting = || {
        let core = sandbox.handle.inner.lock();
        let open = core.waiting.iter().filter(|w| !w.answer.is_closed());
        open.count()
    };
    while waiting() != number {
        assert!(began.elapsed() < LIMIT, "{} requests wait", waiting());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_name_belongs_to_the_process_with_a_waiting_request() {
    let sandbox = Sandbox::memory().await;
    let worker = sandbox.worker("w1").await;
    let (mut first, mut second) = (worker.clone(), namesake(&worker));
    let waits = tokio::spawn(async move { first.poll(20_000).await });
    await_waiting(&sandbox, 1).await;
    assert_refused(&mut second).await;
    // The same process may send several requests at a time.
    assert_eq!(worker.clone().ask(0).await.unwrap(), None);

    // The first process ends, and closes its connection.
    waits.abort();
    await_waiting(&sandbox, 0).await;
    assert_eq!(second.ask(0).await.unwrap(), None);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_process_that_holds_a_lease_keeps_its_name_for_three_heartbeats() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut first = sandbox.worker("w1").await;
    let mut second = namesake(&first);
    let held = first.lease().await;
    assert_refused(&mut second).await;
    sandbox.pass(HEARTBEAT * 2).await;
    assert_eq!(first.heartbeat(&held).await, v1::LeaseStatus::Keep);
    sandbox.pass(HEARTBEAT * 3).await;
    assert_refused(&mut second).await;
    sandbox.pass(HEARTBEAT).await;
    assert_eq!(second.ask(0).await.unwrap(), None);

    // The lease of the first process stays valid.
    assert_eq!(first.heartbeat(&held).await, v1::LeaseStatus::Keep);
    assert_eq!(second.ask(0).await.unwrap(), None);
    first.work(&held).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    sandbox.stop().await;
}

#[tokio::test]
async fn a_heartbeat_binds_the_name_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let sandbox = Sandbox::start(capstan_dataset::Store::memory(), &url).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let held = sandbox.worker("w1").await.lease().await;
    let sandbox = sandbox.restart().await;
    let mut first = sandbox.worker("w1").await;
    let mut second = namesake(&first);
    assert_eq!(first.heartbeat(&held).await, v1::LeaseStatus::Keep);
    assert_refused(&mut second).await;
    first.leave().await.unwrap();
    let again = second.lease().await;
    assert_eq!(
        again.attempt_number, 1,
        "a released lease does not count as an attempt"
    );
    sandbox.stop().await;
}

#[tokio::test]
async fn a_lease_that_its_worker_never_received_is_released_when_the_worker_leaves() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut first = sandbox.worker("w1").await;
    let lost = first.lease().await;
    let refused = namesake(&first).leave().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(first.heartbeat(&lost).await, v1::LeaseStatus::Keep);

    first.leave().await.unwrap();
    assert_eq!(first.heartbeat(&lost).await, v1::LeaseStatus::Stale);
    let mut second = sandbox.worker("w2").await;
    let held = second.lease().await;
    assert_eq!(held.attempt_number, 1);

    // A second or late `Leave` does not affect another worker.
    first.leave().await.unwrap();
    assert_eq!(second.heartbeat(&held).await, v1::LeaseStatus::Keep);
    let nameless = v1::LeaveRequest {
        worker: "w2".to_owned(),
        session: Vec::new(),
    };
    let refused = second.client.leave(nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(second.heartbeat(&held).await, v1::LeaseStatus::Keep);
    sandbox.stop().await;
}

#[tokio::test]
async fn requests_of_a_worker_that_leaves_stop_waiting() {
    let sandbox = Sandbox::memory().await;
    let mut worker = sandbox.worker("w1").await;
    let (mut one, mut other) = (worker.clone(), sandbox.worker("w2").await);
    let waits = tokio::spawn(async move { one.poll(20_000).await });
    let others = tokio::spawn(async move { other.poll(20_000).await });
    await_waiting(&sandbox, 2).await;
    worker.leave().await.unwrap();
    assert_eq!(waits.await.unwrap(), None);
    await_waiting(&sandbox, 1).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    assert!(others.await.unwrap().is_some());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_rank_may_leave_its_gang() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(GANG, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    for _ in 0..2 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    let (mut one, mut two) = (sandbox.trainer("t1").await, sandbox.trainer("t2").await);
    let (first, second) = tokio::join!(one.lease(), two.lease());
    assert!(!two.complete(&second).await.unwrap());
    two.leave().await.unwrap();
    assert_eq!(one.heartbeat(&first).await, v1::LeaseStatus::Keep);

    // If an unfinished rank leaves, the lease of the gang ends.
    one.leave().await.unwrap();
    assert_eq!(one.heartbeat(&first).await, v1::LeaseStatus::Stale);
    let (first, _) = tokio::join!(one.lease(), two.lease());
    assert_eq!(first.attempt_number, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn unused_names_are_forgotten() {
    let sandbox = Sandbox::memory().await;
    let mut worker = sandbox.worker("w1").await;
    let mut waiting = worker.clone();
    let waits = tokio::spawn(async move { waiting.poll(20_000).await });
    await_waiting(&sandbox, 1).await;
    for number in 0..5_000 {
        let offer = Offer {
            worker: format!("stranger-{number}").into(),
            roles: [Role::Caption].into(),
            device: "cpu".into(),
            slots: 1,
            cached: Default::default(),
        };
        let session = Session::new(b"stranger");
        let none = sandbox.handle.lease(offer, session, Duration::ZERO).await;
        assert!(none.unwrap().is_empty());
    }
    let names = sandbox.handle.inner.lock().sessions.len();
    assert!(names <= 1_024, "{names}");
    assert_refused(&mut namesake(&worker)).await;
    worker.leave().await.unwrap();
    assert_eq!(waits.await.unwrap(), None);
    sandbox.stop().await;
}
