//! Leases over gRPC: expiry, zombies, gangs, failures.

use std::time::Duration;

use capstan_dataset::{commits, versions};
use capstan_plan::task::Task;
use capstan_proto::v1;
use tonic::Code;

use super::sandbox::{GANG, ONE_TASK, PIPELINE, Sandbox};

const PAST_LEASE: Duration = Duration::from_secs(31);
const PAST_BACKOFF: Duration = Duration::from_secs(5);

fn is_ready(status: &v1::RunStatus) -> bool {
    status.stages[0].tasks == 1 && status.stages[0].leased == 0
}

#[tokio::test]
async fn an_expired_lease_is_leased_again_and_the_zombies_commit_counts() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let (mut zombie, mut second) = (sandbox.worker("w1").await, sandbox.worker("w2").await);
    let lost = zombie.lease().await;
    sandbox.pass(Duration::from_secs(29)).await;
    assert_eq!(zombie.heartbeat(&lost).await, v1::LeaseStatus::Keep);
    sandbox.pass(PAST_LEASE).await;
    sandbox.until("r", is_ready).await;
    sandbox.pass(PAST_BACKOFF).await;
    let held = second.lease().await;
    assert_eq!(held.attempt_number, 2);
    assert!(epoch(&held) > epoch(&lost));
    assert_eq!(zombie.heartbeat(&lost).await, v1::LeaseStatus::Stale);

    // The zombie commits first: its record is valid, although its report is rejected.
    zombie.commit(&lost).await;
    assert_eq!(
        zombie.complete(&lost).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let committed = second.commit(&held).await;
    assert!(matches!(committed, commits::Committed::Others(_)));
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    assert_eq!(
        second.complete(&held).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    sandbox.stop().await;
}

#[tokio::test]
async fn a_commit_without_a_report_is_found() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    worker.commit(&held).await;
    sandbox.pass(PAST_LEASE).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    assert_eq!(sandbox.status("r").await.leased, 1, "leased only once");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_completion_leases_the_next_task_in_the_same_call() {
    let sandbox = Sandbox::memory().await;
    let two_tasks = ONE_TASK.replace("coco_captions\"", "folder\"\nshards = 2");
    sandbox.submit(&two_tasks, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let first = worker.lease().await;
    // Without a commit, the completion fails and no task is leased.
    let mut other = sandbox.worker("w2").await;
    let second = other.lease().await;
    let refused = other.complete_and_lease(&second).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(sandbox.status("r").await.leased, 2, "no third lease");
    sandbox.pass(PAST_BACKOFF).await;

    worker.commit(&first).await;
    let next = worker.complete_and_lease(&first).await.unwrap();
    let next = next.expect("the second task is ready");
    assert_eq!(next.attempt_number, 2);
    assert_eq!(worker.heartbeat(&next).await, v1::LeaseStatus::Keep);
    worker.commit(&next).await;
    assert_eq!(worker.complete_and_lease(&next).await.unwrap(), None);
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    sandbox.stop().await;
}

#[tokio::test]
async fn the_coordinator_publishes_recipes_that_workers_did_not_publish() {
    for recipe_published in [false, true] {
        let sandbox = Sandbox::memory().await;
        sandbox.submit(ONE_TASK, "r").await.unwrap();
        let mut worker = sandbox.worker("w1").await;
        worker.recipe_published = recipe_published;
        let held = worker.lease().await;
        worker.work(&held).await;
        sandbox
            .until("r", |status| status.state() == v1::RunState::Done)
            .await;
        let task: Task = serde_json::from_str(&held.task_json).unwrap();
        let pointer = format!("recipes/{}.json", task.recipe);
        let size = sandbox.store.size(&pointer).await.unwrap();
        assert_eq!(size.is_some(), !recipe_published);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn completing_without_a_commit_fails_the_attempt() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    let refused = worker.complete(&held).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("human/all has no commit record"),
        "{refused}"
    );
    sandbox.pass(PAST_BACKOFF).await;
    assert_eq!(worker.lease().await.attempt_number, 2);
    sandbox.stop().await;
}

#[tokio::test]
async fn no_task_is_lost_when_a_waiting_worker_disconnects() {
    let sandbox = Sandbox::memory().await;
    let mut gone = sandbox.worker("w1").await;
    let waiting = tokio::spawn(async move { gone.poll(20_000).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    waiting.abort();
    let _ = waiting.await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    // If the task was granted to the disconnected worker, it is ready at once or after that lease has
    // ended.
    let mut worker = sandbox.worker("w2").await;
    let assignment = match worker.poll(1_000).await {
        Some(assignment) => assignment,
        None => {
            sandbox.pass(PAST_LEASE).await;
            sandbox.until("r", is_ready).await;
            sandbox.pass(PAST_BACKOFF).await;
            worker.lease().await
        }
    };
    worker.work(&assignment).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    sandbox.stop().await;
}

#[tokio::test]
async fn a_request_without_a_task_returns_after_its_wait() {
    let sandbox = Sandbox::memory().await;
    let mut worker = sandbox.worker("w1").await;
    assert!(worker.poll(10).await.is_none());
    sandbox.submit(GANG, "r").await.unwrap();
    let mut trainer = sandbox.trainer("t1").await;
    assert!(trainer.poll(300).await.is_none(), "trainers get no import");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_is_leased_together_and_joins_a_ring() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(GANG, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    for _ in 0..2 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    let (mut one, mut two) = (sandbox.trainer("t1").await, sandbox.trainer("t2").await);
    assert!(
        one.poll(500).await.is_none(),
        "a gang of two needs two trainers"
    );
    let (first, second) = tokio::join!(one.lease(), two.lease());
    assert_eq!(rank(&first), 0);
    assert_eq!(rank(&second), 1);
    assert_eq!(epoch(&first), epoch(&second));

    let (ours, theirs) = tokio::join!(one.join(&first), two.join(&second));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!((ours.rank, theirs.rank), (0, 1));
    assert_eq!(ours.peers, ["t1:1", "t2:1"]);
    assert_eq!(ours.secret, theirs.secret);
    assert_eq!(ours.secret.len(), 32);
    assert_eq!(ours.ring_epoch, theirs.ring_epoch);

    // Rank 1 is lost: the attempt of both ranks has failed, and the next ring has another epoch.
    two.fail(&second, v1::FailureKind::Transient).await.unwrap();
    assert_eq!(one.heartbeat(&first).await, v1::LeaseStatus::Stale);
    assert_eq!(
        one.join(&first).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    sandbox.pass(PAST_BACKOFF).await;
    let (first, second) = tokio::join!(one.lease(), two.lease());
    let (again, _) = tokio::join!(one.join(&first), two.join(&second));
    let again = again.unwrap();
    assert_ne!(again.secret, ours.secret);
    let epoch = |plan: &v1::RingPlan| plan.ring_epoch.map(|e| (e.generation, e.counter));
    assert!(epoch(&again) > epoch(&ours));
    one.commit(&first).await;
    assert!(one.complete(&first).await.unwrap());
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    sandbox.stop().await;
}

#[tokio::test]
async fn bad_input_ends_the_run_and_names_the_shard() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    let state = worker.fail(&held, v1::FailureKind::BadInput).await.unwrap();
    assert_eq!(state, v1::TaskState::Quarantined);
    sandbox
        .until("r", |status| status.state() == v1::RunState::Failed)
        .await;
    let status = sandbox.status("r").await;
    let reason = "stage human: 1 shards failed permanently, 0 allowed: all: no such folder";
    assert_eq!(status.reason, reason);
    assert_eq!(status.stages[0].state(), v1::StageState::Failed);
    assert_eq!(status.stages[0].quarantined, ["all"]);

    // After the cause is fixed, submitting the run again retries the shard.
    assert!(sandbox.submit(ONE_TASK, "r").await.unwrap().resumed);
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_limit_later_stages_continue_without_a_shard() {
    let sandbox = Sandbox::memory().await;
    let pipeline = PIPELINE.replace("seed = 3", "seed = 3\nmax_quarantined = 1");
    sandbox.submit(&pipeline, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    loop {
        let held = worker.lease().await;
        if held.lease.as_ref().unwrap().shard == "images-00001" {
            worker
                .fail(&held, v1::FailureKind::PoisonShard)
                .await
                .unwrap();
            break;
        }
        worker.work(&held).await;
    }
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    let first = versions::resolve(&sandbox.store, "web@1").await.unwrap();
    let version = versions::read(&sandbox.store, &first).await.unwrap();
    let missing = versions::tasks(&sandbox.store, &version)
        .await
        .unwrap()
        .missing;
    assert_eq!(missing, ["images-00001".into()]);
    assert_eq!(version.statistics["rows"], 2);
    sandbox.stop().await;
}

#[tokio::test]
async fn progress_is_shown() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    worker.heartbeat(&held).await;
    let status = sandbox.status("r").await;
    let progress = &status.stages[0].progress[0];
    assert_eq!(
        (progress.done, progress.total, progress.unit.as_str()),
        (1, 4, "pictures")
    );
    worker.work(&held).await;
    sandbox
        .until("r", |status| status.stages[0].progress.is_empty())
        .await;
    sandbox.stop().await;
}

fn rank(assignment: &v1::Assignment) -> u32 {
    assignment.lease.as_ref().unwrap().rank
}

fn epoch(assignment: &v1::Assignment) -> (u64, u64) {
    let epoch = assignment.lease.as_ref().unwrap().lease_epoch.unwrap();
    (epoch.generation, epoch.counter)
}

#[tokio::test]
async fn a_lease_needs_its_token_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let mut sandbox = Sandbox::start(capstan_dataset::Store::memory(), &url).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let held = sandbox.worker("w1").await.lease().await;
    let mut forged = held.clone();
    forged.lease.as_mut().unwrap().token[0] ^= 1;
    let mut bare = held.clone();
    bare.lease.as_mut().unwrap().token.clear();
    for restarts in 0..2 {
        if restarts > 0 {
            sandbox = sandbox.restart().await;
        }
        let mut worker = sandbox.worker("w1").await;
        // Another worker's name does not help: the token is bound to the worker.
        let mut other = sandbox.worker("w2").await;
        let mut same = worker.clone();
        for (caller, assignment) in [
            (&mut worker, &forged),
            (&mut same, &bare),
            (&mut other, &held),
        ] {
            assert_eq!(caller.heartbeat(assignment).await, v1::LeaseStatus::Stale);
            let refusals = [
                caller.complete(assignment).await.unwrap_err(),
                caller.release(assignment).await.unwrap_err(),
                caller.join(assignment).await.unwrap_err(),
                caller
                    .fail(assignment, v1::FailureKind::Fatal)
                    .await
                    .unwrap_err(),
            ];
            for refused in refusals {
                assert_eq!(refused.code(), Code::PermissionDenied);
                assert_eq!(
                    refused.message(),
                    "lease of r/human/all was not granted to the caller: send the token that came \
                     with it"
                );
            }
        }
        assert_eq!(worker.heartbeat(&held).await, v1::LeaseStatus::Keep);
    }
    sandbox.worker("w1").await.work(&held).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    sandbox.stop().await;
}

#[tokio::test]
async fn leases_survive_a_suspended_coordinator() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    // The process was stopped or the machine paused: no beat in between.
    for _ in 0..5 {
        sandbox.clock.advance(PAST_LEASE * 4);
        sandbox.looks().await;
    }
    assert_eq!(worker.heartbeat(&held).await, v1::LeaseStatus::Keep);
    let task = sandbox.status("r").await.stages.remove(0);
    assert_eq!((task.leased, task.quarantined.len()), (1, 0));
    // A worker that sends no heartbeats afterwards still loses its lease.
    sandbox.pass(PAST_LEASE).await;
    sandbox.until("r", is_ready).await;
    assert_eq!(worker.heartbeat(&held).await, v1::LeaseStatus::Stale);
    sandbox.stop().await;
}
