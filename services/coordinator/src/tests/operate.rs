//! Requests of operators and of stopping workers: released leases, plans, retried shards.

use std::time::Duration;

use capstan_dataset::versions;
use capstan_plan::FailureKind;
use capstan_plan::commit::OutputRef;
use capstan_proto::v1;
use tonic::Code;

use crate::convert::claim;

use super::sandbox::{GANG, ONE_TASK, PIPELINE, Sandbox, TASKS};

#[tokio::test]
async fn a_released_lease_is_leased_again_immediately() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let (mut stops, mut other) = (sandbox.worker("w1").await, sandbox.worker("w2").await);
    let held = stops.lease().await;
    stops.release(&held).await.unwrap();
    let again = other.lease().await;
    assert_eq!(again.attempt_number, 1, "no attempt was made");
    let stale = stops.release(&held).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    other.work(&again).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    assert_eq!(sandbox.status("r").await.leased, 1, "and is not counted");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rank_that_stops_releases_the_lease_of_the_gang() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(GANG, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    for _ in 0..2 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    let (mut one, mut two) = (sandbox.trainer("t1").await, sandbox.trainer("t2").await);
    let (first, second) = tokio::join!(one.lease(), two.lease());
    two.release(&second).await.unwrap();
    assert_eq!(one.heartbeat(&first).await, v1::LeaseStatus::Stale);
    let (first, _) = tokio::join!(one.lease(), two.lease());
    assert_eq!(first.attempt_number, 1);
    sandbox.stop().await;
}

fn stage<'a>(plan: &'a v1::PlanRunResponse, name: &str) -> &'a v1::StagePlan {
    plan.stages.iter().find(|s| s.stage == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_lists_the_open_tasks_and_starts_nothing() {
    let sandbox = Sandbox::memory().await;
    let plan = sandbox.plan(PIPELINE, "first").await.unwrap();
    assert_eq!((plan.run.as_str(), plan.exists), ("first", false));
    let order: Vec<_> = plan.stages.iter().map(|s| s.stage.as_str()).collect();
    assert_eq!(order.len(), 9);
    let blip = stage(&plan, "blip");
    assert_eq!(blip.kind, "train");
    assert_eq!(blip.reads, ["balanced", "words"]);
    let known: Vec<_> = plan.stages.iter().map(|s| s.tasks).collect();
    // The tasks of crawls and of stages that read shard by shard are not known before.
    for (name, tasks) in order.iter().zip(known) {
        let alone = ["human", "balanced", "words", "blip", "figures"].contains(name);
        assert_eq!(tasks, alone.then_some(1), "{name}");
    }
    assert!(plan.stages.iter().all(|stage| stage.done == 0));
    let unknown = v1::GetRunRequest {
        run: "first".to_owned(),
    };
    let status = sandbox.client().await.get_run(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "nothing was started");
    assert!(sandbox.store.list("runs").await.unwrap().is_empty());

    sandbox.submit(PIPELINE, "first").await.unwrap();
    sandbox.play_out("first").await;
    sandbox.until_recorded("first").await;
    let plan = sandbox.plan(PIPELINE, "first").await.unwrap();
    assert!(plan.exists);
    let done: u64 = plan.stages.iter().map(|stage| stage.done).sum();
    assert_eq!(done, TASKS);
    for stage in &plan.stages {
        assert_eq!(stage.tasks, Some(stage.done), "{}", stage.stage);
    }
    let kept = capstan_proto::convert::stage_output(stage(&plan, "kept").output.clone());
    let Some(OutputRef::Dataset { version, .. }) = kept else {
        panic!("no dataset version: {kept:?}");
    };
    assert_eq!(version.to_string(), "web@5");

    // Another run: everything but the import is adopted, as far as the import allows to tell.
    let before = sandbox.store.list("").await.unwrap();
    let plan = sandbox.plan(PIPELINE, "second").await.unwrap();
    assert!(!plan.exists);
    for name in ["crawl", "curated", "balanced"] {
        let stage = stage(&plan, name);
        assert_eq!(stage.tasks, Some(stage.done), "{name}");
        assert!(stage.done > 0);
    }
    assert_eq!(stage(&plan, "human").done, 0);
    assert_eq!(
        stage(&plan, "words").done,
        0,
        "its input does not exist yet"
    );
    assert_eq!(
        sandbox.store.list("").await.unwrap(),
        before,
        "nothing was written"
    );

    let wrong = sandbox.plan(ONE_TASK, "first").await.unwrap_err();
    assert_eq!(wrong.code(), Code::AlreadyExists);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_failed_run_retries_the_selected_shards() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    worker.fail(&held, v1::FailureKind::BadInput).await.unwrap();
    sandbox
        .until("r", |status| status.state() == v1::RunState::Failed)
        .await;
    for (stage, shard, code) in [
        ("x", "", Code::NotFound),
        ("human", "00001", Code::FailedPrecondition),
        ("", "all", Code::InvalidArgument),
    ] {
        let refused = sandbox.retry("r", stage, shard).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let retried = sandbox.retry("r", "human", "all").await.unwrap();
    assert_eq!(
        (retried.state(), retried.shards),
        (v1::RunState::Running, 1)
    );
    let held = worker.lease().await;
    assert_eq!(held.attempt_number, 1, "attempts count from 0 again");
    worker.work(&held).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    let refused = sandbox.retry("r", "", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let text = refused.message();
    assert_eq!(text, "run r has nothing to retry: it is done");
    let unknown = sandbox.retry("q", "", "").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_retry_resumes_a_cancelled_run() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let cancel = v1::CancelRunRequest {
        run: "r".to_owned(),
    };
    sandbox.client().await.cancel_run(cancel).await.unwrap();
    let retried = sandbox.retry("r", "", "").await.unwrap();
    assert_eq!(
        (retried.state(), retried.shards),
        (v1::RunState::Running, 0)
    );
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    sandbox.stop().await;
}

/// Executes tasks until this shard is leased, and fails it permanently.
async fn fail_shard(worker: &mut super::sandbox::Worker, shard: &str) {
    loop {
        let held = worker.lease().await;
        if held.lease.as_ref().unwrap().shard == shard {
            let kind = v1::FailureKind::PoisonShard;
            worker.fail(&held, kind).await.unwrap();
            return;
        }
        worker.work(&held).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_of_a_running_step_is_retried() {
    let sandbox = Sandbox::memory().await;
    let pipeline = PIPELINE.replace("seed = 3", "seed = 3\nmax_quarantined = 1");
    sandbox.submit(&pipeline, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    fail_shard(&mut worker, "pages-0-00000").await;
    // The other shard of the step is open, so the step is not over.
    let status = sandbox.status("r").await;
    assert_eq!(status.stages[0].quarantined, ["pages-0-00000"]);
    let retried = sandbox.retry("r", "crawl", "pages-0-00000").await.unwrap();
    assert_eq!(
        (retried.state(), retried.shards),
        (v1::RunState::Running, 1)
    );
    assert!(sandbox.status("r").await.stages[0].quarantined.is_empty());
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    let first = versions::resolve(&sandbox.store, "web@1").await.unwrap();
    let version = versions::read(&sandbox.store, &first).await.unwrap();
    let missing = versions::tasks(&sandbox.store, &version)
        .await
        .unwrap()
        .missing;
    assert!(missing.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_are_missing_in_a_version_stay_missing() {
    let sandbox = Sandbox::memory().await;
    let pipeline = PIPELINE.replace("seed = 3", "seed = 3\nmax_quarantined = 1");
    sandbox.submit(&pipeline, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    fail_shard(&mut worker, "images-00001").await;
    sandbox
        .until("r", |status| {
            status.stages[0].state() == v1::StageState::Done
        })
        .await;
    let refused = sandbox.retry("r", "crawl", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let cancel = v1::CancelRunRequest {
        run: "r".to_owned(),
    };
    sandbox.client().await.cancel_run(cancel).await.unwrap();
    // After a resubmission, later stages read the version, and the shard is not executed.
    sandbox.retry("r", "", "").await.unwrap();
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    let path = "runs/r/crawl/images-00001.commit.json";
    assert_eq!(sandbox.store.size(path).await.unwrap(), None);
    let kept = versions::resolve(&sandbox.store, "web@5").await.unwrap();
    let kept = versions::parts(&sandbox.store, &kept).await.unwrap();
    assert_eq!(kept.len(), 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_commit_of_a_shard_that_was_given_up_counts() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    worker.commit(&held).await;
    // The worker commits, misses the store's answer, and reports a failure.
    worker.fail(&held, v1::FailureKind::Fatal).await.unwrap();
    sandbox
        .until("r", |status| status.state() != v1::RunState::Running)
        .await;
    let status = sandbox.status("r").await;
    assert_eq!(status.state(), v1::RunState::Done, "{}", status.reason);
    assert_eq!(status.stages[0].committed, 1);
    assert!(status.stages[0].quarantined.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_retried_shard_is_executed_beside_one_that_stays_given_up() {
    let two = ONE_TASK.replace(
        r#"format = "coco_captions""#,
        "format = \"folder\"\nshards = 2",
    );
    let sandbox = Sandbox::memory().await;
    sandbox.submit(&two, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = [worker.lease().await, worker.lease().await];
    // Both fail before the run ends because of the first.
    let (inner, kind) = (&sandbox.handle.inner, FailureKind::BadInput);
    let now = inner.clock.now();
    let given_up = inner.change(|core| {
        for assignment in &held {
            let claim = claim(&worker.name, assignment.lease.clone()).unwrap();
            core.machine.fail(&claim, kind, "unreadable", now).unwrap();
        }
    });
    given_up.await.unwrap();
    let failed = |status: &v1::RunStatus| status.state() == v1::RunState::Failed;
    sandbox.until("r", failed).await;

    let retried = sandbox.retry("r", "human", "00000").await.unwrap();
    assert_eq!(retried.shards, 1);
    let again = worker.lease().await;
    assert_eq!(again.lease.as_ref().unwrap().shard, "00000");
    worker.work(&again).await;
    sandbox.until("r", failed).await;
    let status = sandbox.status("r").await;
    assert_eq!(status.stages[0].committed, 1);
    assert_eq!(status.stages[0].quarantined, ["00001"]);

    sandbox.retry("r", "human", "00001").await.unwrap();
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_later_steps_have_left_out_count_as_missing() {
    let sandbox = Sandbox::memory().await;
    let pipeline = PIPELINE.replace("seed = 3", "seed = 3\nmax_quarantined = 1");
    sandbox.submit(&pipeline, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let failed = |status: &v1::RunStatus| status.state() == v1::RunState::Failed;
    // The second wave starts without a shard of the first. A second missing shard exceeds the limit.
    fail_shard(&mut worker, "pages-0-00001").await;
    fail_shard(&mut worker, "pages-1-00000").await;
    sandbox.until("r", failed).await;
    let over = sandbox.retry("r", "crawl", "pages-0-00001").await;
    assert_eq!(
        over.unwrap_err().message(),
        "run r has nothing to retry: later steps were built without it"
    );
    for all_over in [false, true] {
        let shards = match all_over {
            true => sandbox.submit(&pipeline, "r").await.map(|_| 1),
            false => sandbox.retry("r", "", "").await.map(|r| r.shards),
        };
        assert_eq!(shards.unwrap(), 1, "the step of the other one is over");
        fail_shard(&mut worker, "pages-1-00000").await;
        let ended = sandbox.play_out("r").await;
        assert_eq!(ended.state(), v1::RunState::Failed);
        let reason = "2 shards failed permanently, 1 allowed: pages-0-00001: ";
        assert!(ended.reason.contains(reason), "{}", ended.reason);
        let published = versions::datasets(&sandbox.store).await.unwrap();
        assert!(!published.contains(&"web".into()), "{published:?}");
    }
    sandbox.retry("r", "", "").await.unwrap();
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    let first = versions::resolve(&sandbox.store, "web@1").await.unwrap();
    let version = versions::read(&sandbox.store, &first).await.unwrap();
    let missing = versions::tasks(&sandbox.store, &version)
        .await
        .unwrap()
        .missing;
    assert_eq!(missing, ["pages-0-00001".into()]);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontier_is_retried_together_with_the_pages_before_it() {
    let sandbox = Sandbox::memory().await;
    let pipeline = PIPELINE.replace("seed = 3", "seed = 3\nmax_quarantined = 1");
    sandbox.submit(&pipeline, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let failed = |status: &v1::RunStatus| status.state() == v1::RunState::Failed;
    fail_shard(&mut worker, "pages-0-00001").await;
    fail_shard(&mut worker, "frontier-1").await;
    sandbox.until("r", failed).await;
    assert_eq!(sandbox.retry("r", "", "").await.unwrap().shards, 2);
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    let first = versions::resolve(&sandbox.store, "web@1").await.unwrap();
    let version = versions::read(&sandbox.store, &first).await.unwrap();
    let missing = versions::tasks(&sandbox.store, &version)
        .await
        .unwrap()
        .missing;
    assert!(missing.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_run_without_a_driver() {
    let sandbox = Sandbox::memory().await;
    let pipeline = capstan_plan::Pipeline::from_toml(ONE_TASK, "one.toml").unwrap();
    // Submitting is aborted at different points.
    let has_begun = || sandbox.handle.inner.core().unwrap().runs.len();
    for polls in 0.. {
        if has_begun() >= 20 {
            break;
        }
        let run = format!("r{polls}").as_str().into();
        let mut submitting = Box::pin(sandbox.handle.submit(pipeline.clone(), None, Some(run)));
        for _ in 0..polls {
            if futures::poll!(&mut submitting).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // Every run that started leases its task, and ends.
    let mut worker = sandbox.worker("w1").await;
    let begun: Vec<_> = {
        let core = sandbox.handle.inner.core().unwrap();
        core.runs.keys().cloned().collect()
    };
    for _ in &begun {
        let held = worker.lease().await;
        worker.work(&held).await;
    }
    for run in &begun {
        sandbox
            .until(run.as_str(), |status| status.state() == v1::RunState::Done)
            .await;
    }
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_straggler_is_executed_twice_and_committed_once() {
    // Twelve shards, one of them slow: each is a part of an import in slices.
    let slices = r#"
name = "slices"
[[stage]]
name = "pairs"
kind = "import"
dataset = "pairs"
format = "folder"
source = "pairs"
shards = 12
[[stage]]
name = "kept"
kind = "curate"
from = "pairs"
queries = ["ball"]
# No worker executes it meanwhile, so that the run does not end.
[[stage]]
name = "capped"
kind = "balance"
from = "kept"
mode = "wit"
cap = 10
"#;
    let sandbox = Sandbox::memory().await;
    sandbox.submit(slices, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    for _ in 0..12 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    let mut slow = sandbox.worker("slow").await;
    let held = slow.lease().await;
    for _ in 1..12 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    assert!(worker.poll(300).await.is_none(), "it is not late yet");
    sandbox.pass(Duration::from_secs(10)).await;
    let twin = worker.lease().await;
    assert_eq!(
        twin.lease.as_ref().unwrap().shard,
        held.lease.as_ref().unwrap().shard
    );
    assert_eq!(slow.heartbeat(&held).await, v1::LeaseStatus::Keep);
    worker.work(&twin).await;
    assert_eq!(slow.heartbeat(&held).await, v1::LeaseStatus::Stale);
    let last = worker.lease().await;
    worker.work(&last).await;
    sandbox
        .until("r", |status| status.state() == v1::RunState::Done)
        .await;
    let committed = slow.commit(&held).await;
    assert!(matches!(
        committed,
        capstan_dataset::commits::Committed::Others(_)
    ));
    assert_eq!(sandbox.status("r").await.leased, 26);
    sandbox.stop().await;
}
