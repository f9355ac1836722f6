//! Coordinator, two workers, two trainers and the demo web on one host, over MinIO.

use capstan_tests::cluster::{Cluster, Setup, turn};
use capstan_tests::harness::{RUN, outcome, root, small_demo, succeed};
use capstan_tests::minio::Minio;

#[test]
fn six_processes_over_minio_end_as_one_process_does() {
    let _turn = turn();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(minio) = runtime.block_on(Minio::start()).unwrap() else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let alone = temp.path().join("alone");
    succeed(&mut small_demo(&alone));
    let expected = outcome(&alone);
    assert!(expected.models.len() >= 8, "{expected:?}");

    let mut cluster = Cluster::start(Setup {
        store: minio.url("six"),
        variables: minio.variables(),
        secure: true,
        ..Setup::in_folder(temp.path())
    });
    cluster.submit(&root().join("tests/small/pipeline.toml"), RUN);
    cluster.await_quiet_end(RUN);
    cluster.check_done(RUN);
    assert_eq!(cluster.outcome(RUN), expected);
    cluster.stop();
}
