//! Stages of more shards than a page or a window: lists are read page by page, leases and commits keep
//! their size, and a stage that another run has done is adopted completely.

use std::collections::BTreeSet;

use capstan_dataset::lists::{self, PAGE};
use capstan_dataset::{Store, commits, settings, versions};
use capstan_plan::commit::{Commit, File, FileKind, Outputs};
use capstan_plan::id::{Digest, LeaseEpoch, RecipeHash, ShardId, StageName};
use capstan_plan::stage::{BalanceWork, Kind};
use capstan_plan::task::{Task, Work};
use capstan_proto::v1;

use super::sandbox::Sandbox;

const SHARDS: u64 = PAGE + 3;
/// Shards that are not committed when the run is submitted, on both pages.
const OPEN: [u64; 3] = [7, PAGE - 1, PAGE + 1];

fn pipeline() -> String {
    format!(
        "name = \"large\"\n\
         [[stage]]\nname = \"pairs\"\nkind = \"import\"\ndataset = \"pairs\"\nformat = \"folder\"\n\
         source = \"x\"\nsnapshot = \"1\"\nshards = {SHARDS}\n\
         [[stage]]\nname = \"balanced\"\nkind = \"balance\"\nfrom = \"pairs\"\n"
    )
}

fn file(kind: FileKind, name: &str, base: Option<Digest>) -> File {
    File {
        kind,
        digest: Digest::of(format!("{kind:?} {name}").as_bytes()),
        rows_digest: Digest::of(format!("rows of {kind:?} {name}").as_bytes()),
        rows: 10,
        size_bytes: 100,
        base,
    }
}

fn bases(shard: &ShardId) -> Outputs {
    let base = file(FileKind::Base, shard.as_str(), None);
    let pixels = file(FileKind::Pixels, shard.as_str(), Some(base.digest));
    Outputs {
        files: vec![base, pixels],
        counts: [("found".to_owned(), 2)].into(),
        ..Outputs::default()
    }
}

fn commit(run: &str, stage: &str, shard: &ShardId, outputs: Outputs) -> Commit {
    Commit {
        run: run.into(),
        stage: stage.into(),
        shard: shard.clone(),
        attempt: "a".into(),
        worker: "w".into(),
        lease_epoch: LeaseEpoch::default(),
        recipe: RecipeHash(Digest::of(shard.as_str().as_bytes())),
        inputs: Vec::new(),
        outputs,
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted: false,
    }
}

/// Commits the shards of the first stage, except some.
async fn commit_pairs(store: &Store, run: &str, without: &[u64]) {
    for ordinal in (0..SHARDS).filter(|ordinal| !without.contains(ordinal)) {
        let shard = ShardId::ordinal(ordinal as usize);
        let commit = commit(run, "pairs", &shard, bases(&shard));
        commits::commit(store, &commit).await.unwrap();
    }
}

/// Overlays of all shards, with an object in the store.
async fn overlays(store: &Store, work: &BalanceWork) -> Outputs {
    let mut outputs = Outputs::default();
    let bytes = vec![b'x'; 100];
    for part in versions::parts_of(store, &work.shards).await.unwrap() {
        let base = part.base.digest;
        let overlay = File {
            digest: Digest::of(&bytes),
            ..file(FileKind::Curation, &base.to_string(), Some(base))
        };
        outputs.files.push(overlay);
    }
    let path = format!("data/{}.parquet", Digest::of(&bytes));
    store.create(&path, bytes).await.unwrap();
    lists::bounded(store, outputs).await.unwrap()
}

fn task(assignment: &v1::Assignment) -> Task {
    assert!(
        assignment.task_json.len() < 2_000,
        "{}",
        assignment.task_json
    );
    serde_json::from_str(&assignment.task_json).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_of_several_pages_resumes_from_its_commits_and_is_adopted_completely() {
    let store = Store::memory();
    commit_pairs(&store, "first", &OPEN).await;
    let sandbox = Sandbox::start(store.clone(), "sqlite::memory:").await;
    sandbox.submit(&pipeline(), "first").await.unwrap();
    let mut worker = sandbox.worker("w").await;
    let mut leased = BTreeSet::new();
    for _ in OPEN {
        let assignment = worker.lease().await;
        let task = task(&assignment);
        let kind = settings::get(&store, &task.settings).await.unwrap();
        assert!(matches!(kind, Kind::Import(_)));
        let made = Commit {
            recipe: task.recipe,
            ..commit("first", "pairs", &task.shard, bases(&task.shard))
        };
        commits::commit(&store, &made).await.unwrap();
        worker.complete(&assignment).await.unwrap();
        leased.insert(task.shard);
    }
    let open = OPEN.map(|ordinal| ShardId::ordinal(ordinal as usize));
    assert_eq!(leased, BTreeSet::from(open));

    let assignment = worker.lease().await;
    let global = task(&assignment);
    let Work::Balance(work) = &global.work else {
        panic!("{global:?}")
    };
    assert_eq!(work.shards.count, SHARDS);
    let made = Commit {
        recipe: global.recipe,
        ..commit(
            "first",
            "balanced",
            &global.shard,
            overlays(&store, work).await,
        )
    };
    assert_eq!(
        (made.outputs.files.len(), made.outputs.manifests.len()),
        (0, 2)
    );
    commits::commit(&store, &made).await.unwrap();
    worker.complete(&assignment).await.unwrap();
    sandbox
        .until("first", |run| run.state() == v1::RunState::Done)
        .await;
    let stage = &sandbox.status("first").await.stages[0];
    assert_eq!((stage.tasks, stage.committed), (SHARDS, SHARDS));
    assert_eq!(stage.adopted, SHARDS - OPEN.len() as u64);
    let version = versions::resolve(&store, "pairs@2").await.unwrap();
    let parts = versions::parts(&store, &version).await.unwrap();
    assert_eq!(parts.len() as u64, SHARDS);
    for (ordinal, part) in parts.iter().enumerate() {
        let shard = ShardId::ordinal(ordinal);
        let expected = &bases(&shard).files[0];
        assert_eq!(&part.base, expected);
        assert_eq!(part.overlays[0].base, Some(expected.digest));
    }
    let version = versions::read(&store, &version).await.unwrap();
    assert_eq!(version.statistics["rows"], 10 * SHARDS);

    // Another run, whose shards have equal rows in other files, adopts the one task.
    for ordinal in 0..SHARDS {
        let shard = ShardId::ordinal(ordinal as usize);
        let mut outputs = bases(&shard);
        let base = Digest::of(format!("other {shard}").as_bytes());
        outputs.files[0].digest = base;
        outputs.files[1].base = Some(base);
        let commit = commit("second", "pairs", &shard, outputs);
        commits::commit(&store, &commit).await.unwrap();
    }
    sandbox.submit(&pipeline(), "second").await.unwrap();
    let ended = sandbox.play_out("second").await;
    assert_eq!(
        (ended.state(), ended.leased),
        (v1::RunState::Done, 0),
        "{}",
        ended.reason
    );
    let version = versions::resolve(&store, "pairs@4").await.unwrap();
    let last = versions::parts(&store, &version)
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(last.overlays[0].base, Some(last.base.digest));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_the_store_lost_are_executed_again() {
    let store = Store::memory();
    commit_pairs(&store, "r", &[]).await;
    let sandbox = Sandbox::start(store.clone(), "sqlite::memory:").await;
    sandbox.submit(&pipeline(), "r").await.unwrap();
    let mut worker = sandbox.worker("w").await;
    let global = worker.lease().await;
    assert_eq!(task(&global).stage.as_str(), "balanced");
    let mut operator = sandbox.client().await;
    let request = v1::CancelRunRequest {
        run: "r".to_owned(),
    };
    operator.cancel_run(request).await.unwrap();
    let (run, stage): (_, StageName) = ("r".into(), "balanced".into());
    assert_eq!(
        commits::shards_of_stage(&store, &run, &stage)
            .await
            .unwrap(),
        []
    );

    // Once the version is published, the stage is done. Until then its commits decide.
    let path = "datasets/pairs/versions/00000000000000000001.json";
    store.delete(path).await.unwrap();
    let lost = ShardId::ordinal(PAGE as usize);
    store
        .delete(&commits::path(&run, &"pairs".into(), &lost).unwrap())
        .await
        .unwrap();
    sandbox.submit(&pipeline(), "r").await.unwrap();
    assert_eq!(task(&worker.lease().await).shard, lost);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_runs_are_pruned_and_the_store_keeps_their_outputs() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(super::sandbox::ONE_TASK, "r").await.unwrap();
    sandbox.play_out("r").await;
    let mut operator = sandbox.client().await;
    let prune = |older_than_ms| v1::PruneRunsRequest { older_than_ms };
    let young = operator
        .prune_runs(prune(3_600_000))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((young.runs.len(), young.more), (0, false));
    sandbox.pass(std::time::Duration::from_secs(1)).await;
    let pruned = operator.prune_runs(prune(0)).await.unwrap().into_inner();
    assert_eq!(pruned.runs, ["r"]);
    let request = v1::ListRunsRequest { limit: 9 };
    let listed = operator.list_runs(request).await.unwrap().into_inner();
    assert_eq!(listed.runs, []);
    sandbox.submit(super::sandbox::ONE_TASK, "r").await.unwrap();
    let ended = sandbox.play_out("r").await;
    assert_eq!(ended.leased, 0, "its commits are found");
    sandbox.stop().await;
}
