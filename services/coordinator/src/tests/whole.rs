//! Complete pipelines: executed, submitted again, adopted, and resumed after a restart.

use std::collections::BTreeSet;

use capstan_dataset::{Store, versions};
use capstan_plan::commit::FileKind;
use capstan_proto::v1;
use capstan_proto::v1::event::What;

use super::sandbox::{CURATED, ONE_TASK, PIPELINE, Sandbox, TASKS, rest};

async fn the_pipeline_runs_to_its_end(store: Store) {
    let sandbox = Sandbox::start(store, "sqlite::memory:").await;
    let submitted = sandbox.submit(PIPELINE, "first").await.unwrap();
    assert!(!submitted.resumed);
    let ended = sandbox.play_out("first").await;
    assert_eq!(
        (ended.state(), ended.reason.as_str()),
        (v1::RunState::Done, "")
    );
    assert_eq!(ended.leased, TASKS, "every task was leased once");

    let kept = versions::resolve(&sandbox.store, "web@5").await.unwrap();
    let version = versions::read(&sandbox.store, &kept).await.unwrap();
    assert_eq!(version.stage.as_str(), "kept");
    assert_eq!(version.derived_from.unwrap().to_string(), "web@4");
    assert_eq!(version.statistics["rows"], 4);
    let parts = versions::parts(&sandbox.store, &kept).await.unwrap();
    let kinds: Vec<_> = parts[0].overlays.iter().map(|file| file.kind).collect();
    use FileKind::{Captions, Curation, Verdicts};
    assert_eq!(kinds, [Curation, Curation, Captions, Verdicts]);

    let status = sandbox.status("first").await;
    assert!(
        status
            .stages
            .iter()
            .all(|stage| stage.state() == v1::StageState::Done)
    );
    let crawl = &status.stages[0];
    assert_eq!((crawl.tasks, crawl.committed, crawl.adopted), (9, 9, 0));
    let version = v1::DatasetVersion {
        dataset: "web".into(),
        number: 1,
        parts: 2,
    };
    let output = Some(v1::stage_output::Output::Dataset(version));
    assert_eq!(crawl.output, Some(v1::StageOutput { output }));

    // Submit the same run again: every task is committed.
    assert!(sandbox.submit(PIPELINE, "first").await.unwrap().resumed);
    let ended = sandbox.play_out("first").await;
    assert_eq!((ended.state(), ended.leased), (v1::RunState::Done, 0));
    assert!(
        versions::resolve(&sandbox.store, "web@6").await.is_err(),
        "no version is published twice"
    );

    // Another run with the same recipes executes only the import.
    sandbox.submit(PIPELINE, "second").await.unwrap();
    let ended = sandbox.play_out("second").await;
    assert_eq!((ended.state(), ended.leased), (v1::RunState::Done, 1));
    let status = sandbox.status("second").await;
    let adopted: u64 = status.stages.iter().map(|stage| stage.adopted).sum();
    assert_eq!(adopted, TASKS - 1);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_runs_to_its_end_in_memory() {
    the_pipeline_runs_to_its_end(Store::memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_runs_to_its_end_on_local_disk() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("store").display().to_string();
    the_pipeline_runs_to_its_end(Store::open(&url).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_overlays_have_the_base_files_of_their_run() {
    let sandbox = Sandbox::memory().await;
    let mut bases = Vec::new();
    for (run, version, leased) in [("a", "human@2", 2), ("b", "human@4", 1)] {
        sandbox.submit(CURATED, run).await.unwrap();
        assert_eq!(sandbox.play_out(run).await.leased, leased);
        let version = versions::resolve(&sandbox.store, version).await.unwrap();
        let parts = versions::parts(&sandbox.store, &version).await.unwrap();
        assert_eq!(parts[0].overlays[0].base, Some(parts[0].base.digest));
        bases.push(parts[0].base.clone());
    }
    assert_eq!(bases[0].rows_digest, bases[1].rows_digest);
    assert_ne!(
        bases[0].digest, bases[1].digest,
        "equal rows in other files"
    );
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_report_every_step_of_a_run() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(PIPELINE, "r").await.unwrap();
    let mut stream = sandbox.watch("r").await;
    let first = stream.message().await.unwrap().unwrap();
    let Some(What::Snapshot(snapshot)) = first.what else {
        panic!("{first:?}")
    };
    let ended = sandbox.play_out("r").await;
    assert_eq!(ended.state(), v1::RunState::Done);
    let events = rest(stream).await;
    let mut committed = BTreeSet::new();
    let mut done = Vec::new();
    let mut planned: u64 = snapshot.stages.iter().map(|stage| stage.tasks).sum();
    for event in &events {
        match event.what.as_ref().unwrap() {
            What::TaskChanged(change) if change.state() == v1::TaskState::Committed => {
                committed.insert((change.stage.clone(), change.shard.clone()));
            }
            What::StagePlanned(step) => planned += step.step_tasks,
            What::StageDone(stage) => done.push(stage.stage.as_str()),
            _ => {}
        }
    }
    assert_eq!(committed.len() as u64, TASKS);
    assert_eq!(planned, TASKS);
    assert_eq!(done.len(), 9);
    let place = |stage| done.iter().position(|name| *name == stage);
    assert!(place("crawl") < place("curated") && place("blip") < place("captions"));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_coordinator_resumes_runs_and_keeps_leases() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let sandbox = Sandbox::start(Store::memory(), &database).await;
    sandbox.submit(PIPELINE, "long").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let done = worker.lease().await;
    worker.work(&done).await;
    let held = worker.lease().await;
    let generation = sandbox.handle.generation();

    let sandbox = sandbox.restart().await;
    assert_eq!(sandbox.handle.generation(), generation + 1);
    let mut worker = sandbox.worker("w1").await;
    assert_eq!(
        worker.heartbeat(&held).await,
        v1::LeaseStatus::Keep,
        "one lease period"
    );
    worker.commit(&held).await;
    assert!(worker.complete(&held).await.unwrap());
    let ended = sandbox.play_out("long").await;
    assert_eq!(ended.state(), v1::RunState::Done);
    assert_eq!(ended.leased, TASKS, "no task was leased twice");
    let crawl = &sandbox.status("long").await.stages[0];
    assert_eq!(
        crawl.adopted, 0,
        "tasks committed before the restart are not adopted"
    );
    sandbox.stop().await;
}

#[tokio::test]
async fn the_health_service_reports_serving() {
    use tonic_health::pb::health_check_response::ServingStatus;
    let sandbox = Sandbox::memory().await;
    let channel = tonic::transport::Endpoint::from_shared(sandbox.address.clone()).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let service = "capstan.v1.Coordinator".to_owned();
    let answer = health
        .check(tonic_health::pb::HealthCheckRequest { service })
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    sandbox.submit(ONE_TASK, "x").await.unwrap();
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_times_of_finished_stages() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let sandbox = Sandbox::start(Store::memory(), &url).await;
    sandbox.submit(CURATED, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let assignment = worker.lease().await;
    sandbox.pass(std::time::Duration::from_secs(7)).await;
    worker.work(&assignment).await;
    let is_first_done = |status: &v1::RunStatus| status.stages[0].state() == v1::StageState::Done;
    sandbox.until("r", is_first_done).await;
    let before = sandbox.status("r").await.stages.remove(0);
    assert_eq!(before.ended_unix_ms - before.started_unix_ms, 7_000);

    let sandbox = sandbox.restart().await;
    sandbox.pass(std::time::Duration::from_secs(60)).await;
    // When the second stage continues, the driver has passed the first one.
    let ended = sandbox.play_out("r").await;
    assert_eq!(ended.state(), v1::RunState::Done);
    let after = sandbox.status("r").await.stages.remove(0);
    assert_eq!(after, before);
    sandbox.stop().await;
}
