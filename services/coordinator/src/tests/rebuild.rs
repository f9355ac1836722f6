//! A lost database is rebuilt, and runs resume.

use std::collections::BTreeMap;
use std::path::Path;

use capstan_dataset::{Store, commits, runs};
use capstan_plan::commit::Commit;
use capstan_proto::v1;

use super::sandbox::{ONE_TASK, PIPELINE, Sandbox, TASKS, settings};
use crate::rebuild;

fn database(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("capstan.db").display())
}

fn lose(folder: &Path) {
    for file in ["capstan.db", "capstan.db-wal", "capstan.db-shm"] {
        let _ = std::fs::remove_file(folder.join(file));
    }
}

/// Every commit of a run, without the fields that differ between runs.
async fn commits_of(store: &Store, run: &str) -> BTreeMap<(String, String), Commit> {
    let all = commits::of_run(store, &run.into()).await.unwrap();
    let keyed = all.into_iter().map(|commit| {
        let key = (commit.stage.to_string(), commit.shard.to_string());
        (key, commit)
    });
    keyed.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_resumes_after_a_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let url = database(folder.path());
    let sandbox = Sandbox::start(Store::memory(), &url).await;
    sandbox.submit(PIPELINE, "lost").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    for _ in 0..6 {
        let assignment = worker.lease().await;
        worker.work(&assignment).await;
    }
    // Held when the database is lost, and committed while no coordinator is running.
    let held = worker.lease().await;
    let (store, _, _) = sandbox.stop().await;
    worker.commit(&held).await;
    let before = commits_of(&store, "lost").await;
    assert_eq!(before.len(), 7);
    lose(folder.path());

    let rebuilt = rebuild(&settings(&url), &store).await.unwrap();
    assert_eq!((rebuilt.runs, rebuilt.running), (1, 1));
    assert_eq!((rebuilt.committed, rebuilt.generation), (7, 1));
    let sandbox = Sandbox::start(store.clone(), &url).await;
    let ended = sandbox.play_out("lost").await;
    assert_eq!(
        (ended.state(), ended.reason.as_str()),
        (v1::RunState::Done, "")
    );
    assert_eq!(ended.leased, TASKS - 7, "no committed task runs again");
    let after = commits_of(&store, "lost").await;
    assert_eq!(after.len() as u64, TASKS);
    for (key, commit) in before {
        assert_eq!(after[&key], commit, "{key:?} was committed again");
    }

    // An undisturbed run of the same pipeline has the same outputs.
    let other = Sandbox::memory().await;
    other.submit(PIPELINE, "lost").await.unwrap();
    other.play_out("lost").await;
    let undisturbed = commits_of(&other.store, "lost").await;
    let recipes = |commits: &BTreeMap<(String, String), Commit>| -> Vec<_> {
        let commits = commits
            .iter()
            .map(|(key, commit)| (key.clone(), commit.recipe));
        commits.collect()
    };
    let imports = |key: &(String, String)| key.0 == "human";
    let (mut ours, mut theirs) = (recipes(&after), recipes(&undisturbed));
    ours.retain(|(key, _)| !imports(key));
    theirs.retain(|(key, _)| !imports(key));
    assert_eq!(ours, theirs);
    other.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_runs_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    let url = database(folder.path());
    let sandbox = Sandbox::start(Store::memory(), &url).await;
    sandbox.submit(PIPELINE, "done").await.unwrap();
    sandbox.play_out("done").await;
    let done = sandbox.status("done").await;
    sandbox.submit(ONE_TASK, "failed").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    let kind = v1::FailureKind::BadInput;
    worker.fail(&held, kind).await.unwrap();
    sandbox
        .until("failed", |status| status.state() == v1::RunState::Failed)
        .await;
    sandbox.submit(ONE_TASK, "cancelled").await.unwrap();
    let cancel = v1::CancelRunRequest {
        run: "cancelled".to_owned(),
    };
    sandbox.client().await.cancel_run(cancel).await.unwrap();
    // This run fails, and is then retried.
    sandbox.submit(ONE_TASK, "again").await.unwrap();
    let held = worker.lease().await;
    worker.fail(&held, kind).await.unwrap();
    sandbox
        .until("again", |status| status.state() == v1::RunState::Failed)
        .await;
    let store = sandbox.store.clone();
    let recorded_state = async |run: &str| {
        let standing = runs::standing(&store, &run.into()).await.unwrap();
        standing.map(|standing| standing.state)
    };
    // The store is updated after watchers are notified.
    for (run, state) in [
        ("done", runs::RunState::Done),
        ("failed", runs::RunState::Failed),
        ("cancelled", runs::RunState::Cancelled),
        ("again", runs::RunState::Failed),
    ] {
        let is_recorded = async {
            while recorded_state(run).await != Some(state) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, is_recorded).await.unwrap();
    }
    sandbox.retry("again", "", "").await.unwrap();
    assert_eq!(recorded_state("again").await, Some(runs::RunState::Running));
    sandbox.stop().await;
    lose(folder.path());

    let rebuilt = rebuild(&settings(&url), &store).await.unwrap();
    assert_eq!((rebuilt.runs, rebuilt.running), (4, 1));
    let sandbox = Sandbox::start(store.clone(), &url).await;
    let status = sandbox.status("done").await;
    assert_eq!(status.state(), v1::RunState::Done);
    for (before, after) in done.stages.iter().zip(&status.stages) {
        assert_eq!(before.stage, after.stage);
        assert_eq!(before.state, after.state);
        assert_eq!(
            (before.tasks, before.committed, before.adopted),
            (after.tasks, after.committed, after.adopted),
            "{}",
            before.stage
        );
        assert_eq!(before.output, after.output);
    }
    let failed = sandbox.status("failed").await;
    assert_eq!(failed.state(), v1::RunState::Failed);
    assert!(
        failed.reason.contains("no such folder"),
        "{}",
        failed.reason
    );
    let cancelled = sandbox.status("cancelled").await;
    assert_eq!(cancelled.state(), v1::RunState::Cancelled);
    assert_eq!(sandbox.status("again").await.state(), v1::RunState::Running);
    assert_eq!(sandbox.play_out("again").await.state(), v1::RunState::Done);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_running_coordinator_keeps_its_database() {
    let folder = tempfile::tempdir().unwrap();
    let url = database(folder.path());
    let sandbox = Sandbox::start(Store::memory(), &url).await;
    let refused = rebuild(&settings(&url), &sandbox.store).await.unwrap_err();
    assert!(
        refused.to_string().contains("is held by another"),
        "{refused}"
    );
    sandbox.stop().await;
}
