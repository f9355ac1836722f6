//! One coordinator at a time: whoever is not the newest stops, or does not start.

use capstan_tests::cluster::{Cluster, Setup, turn};
use capstan_tests::harness::{fail, one_line, succeed};
use capstan_tests::process::Role;

const LISTEN: (&str, &str) = ("CAPSTAN__COORDINATOR__LISTEN", "127.0.0.1:0");

#[test]
fn two_coordinators_on_one_database_are_impossible() {
    let _turn = turn();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = started(Setup::in_folder(temp.path()));
    let mut second = cluster.command("coordinator");
    let ready = temp.path().join("second.ready");
    second.env(LISTEN.0, LISTEN.1);
    let stderr = fail(second.arg("--ready-file").arg(&ready), 4);
    assert!(one_line(&stderr).contains("state.db"), "{stderr}");
    assert!(!ready.exists(), "announced though it never served");
    let first = cluster.role("coordinator");
    assert_eq!(first.exited(), None, "the first one goes on");
    cluster.stop();
}

#[test]
fn a_newer_coordinator_ends_an_older_one() {
    let _turn = turn();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = started(Setup::in_folder(temp.path()));
    let other = format!("sqlite:{}", temp.path().join("other.db").display());
    let mut rebuild = cluster.operator(&["state", "rebuild", "--database", &other]);
    succeed(&mut rebuild);
    let mut command = cluster.command("coordinator");
    command.env(LISTEN.0, LISTEN.1).args(["--database", &other]);
    let mut newer = Role::spawn(&mut command, "newer", temp.path());
    let older = cluster.role("coordinator");
    assert_eq!(older.ended().code(), Some(4), "{}", older.log());
    let log = older.log();
    assert!(
        one_line(&log).contains("generation 2 of the store was taken"),
        "{log}"
    );
    // Its database is behind the store from now on.
    let stderr = fail(&mut cluster.command("coordinator"), 4);
    assert!(one_line(&stderr).contains("state rebuild"), "{stderr}");
    let status = newer.terminate();
    assert!(status.success(), "{}", newer.log());
}

/// A cluster of a coordinator alone, which serves.
fn started(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.spawn("coordinator");
    succeed(&mut cluster.operator(&["runs", "--wait", "60"]));
    cluster
}
