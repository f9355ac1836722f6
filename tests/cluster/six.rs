//! Coordinator, two workers, two trainers and the demo web on one host, over MinIO.

use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_dataset::Store;
use capstan_tests::cluster::{Cluster, Setup, turn};
use capstan_tests::harness::{
    Outcome, RUN, SEED, capstan, outcome_in, root, small_demo, small_world, succeed,
};
use capstan_tests::minio::Minio;

/// A pipeline and the world that it crawls.
struct Case {
    world: PathBuf,
    pipeline: PathBuf,
    run: String,
    /// Limit for the run as a cluster.
    limit: Duration,
}

/// Runs a case as six processes over MinIO and compares its outcome with that of `alone`. `None`
/// without MinIO.
fn compare_with_six_processes(
    case: &Case,
    folder: &Path,
    alone: impl FnOnce(&Path),
) -> Option<Outcome> {
    let _turn = turn();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let minio = runtime.block_on(Minio::start()).unwrap()?;
    let out = folder.join("alone");
    alone(&out);
    let store = Store::open(&out.join("store").display().to_string()).unwrap();
    let expected = runtime.block_on(outcome_in(&store, &case.run));
    let mut cluster = Cluster::start(Setup {
        store: minio.url("six"),
        variables: minio.variables(),
        secure: true,
        world: case.world.clone(),
        limit: case.limit,
        ..Setup::in_folder(folder)
    });
    cluster.submit(&case.pipeline, &case.run);
    cluster.await_quiet_end(&case.run);
    cluster.check_done(&case.run);
    assert_eq!(cluster.outcome(&case.run), expected);
    cluster.stop();
    Some(expected)
}

#[test]
fn six_processes_over_minio_end_equal_to_one_process() {
    let temp = tempfile::tempdir().unwrap();
    let case = Case {
        world: small_world(),
        pipeline: root().join("tests/small/pipeline.toml"),
        run: RUN.to_owned(),
        limit: Duration::from_secs(300),
    };
    let alone = |out: &Path| drop(succeed(&mut small_demo(out)));
    if let Some(outcome) = compare_with_six_processes(&case, temp.path(), alone) {
        assert!(outcome.models.len() >= 8, "{outcome:?}");
    }
}

/// `cargo test --release --workspace --test cluster -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes: runs the shipped demo twice"]
fn the_shipped_demo_ends_equal_as_six_processes() {
    let temp = tempfile::tempdir().unwrap();
    let world = temp.path().join("world.toml");
    let shipped = succeed(&mut capstan(["demo", "--print-world"]));
    std::fs::write(&world, shipped.stdout).unwrap();
    let case = Case {
        world,
        pipeline: root().join("deploy/pipelines/demo.toml"),
        run: format!("demo-{SEED}"),
        limit: Duration::from_secs(1_200),
    };
    let alone = |out: &Path| {
        let mut command = capstan(["demo", "--seed", SEED, "--out"]);
        drop(succeed(command.arg(out)));
    };
    let outcome = compare_with_six_processes(&case, temp.path(), alone).expect("MinIO is needed");
    println!(
        "{} commits, {} models, {} datasets are equal",
        outcome.commits,
        outcome.models.len(),
        outcome.datasets.len()
    );
}
