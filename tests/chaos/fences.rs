//! One coordinator at a time: an older coordinator stops, or does not start.

use capstan_tests::cluster::{Cluster, Setup, turn};
use capstan_tests::harness::{fail, succeed};
use capstan_tests::lines::Lines;
use capstan_tests::process::Role;

const LISTEN: (&str, &str) = ("CAPSTAN__COORDINATOR__LISTEN", "127.0.0.1:0");

#[test]
fn a_second_coordinator_on_a_database_does_not_start() {
    let mut lines =
        Lines::expected_in("chaos", "a_second_coordinator_on_a_database_does_not_start");
    let _turn = turn();
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let mut cluster = started(Setup::in_folder(temp.path()));
    let mut second = cluster.command("coordinator");
    let ready = temp.path().join("second.ready");
    second.env(LISTEN.0, LISTEN.1);
    lines.add(&fail(second.arg("--ready-file").arg(&ready), 4));
    assert!(!ready.exists(), "announced although it never served");
    let first = cluster.role("coordinator");
    assert_eq!(first.exited(), None, "the first coordinator exited");
    cluster.stop();
    lines.check();
}

#[test]
fn a_newer_coordinator_stops_an_older_one() {
    let mut lines = Lines::expected_in("chaos", "a_newer_coordinator_stops_an_older_one");
    let _turn = turn();
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let mut cluster = started(Setup::in_folder(temp.path()));
    let other = format!("sqlite:{}", temp.path().join("other.db").display());
    let mut rebuild = cluster.operator(&["state", "rebuild", "--database", &other]);
    succeed(&mut rebuild);
    let mut command = cluster.command("coordinator");
    command.env(LISTEN.0, LISTEN.1).args(["--database", &other]);
    let mut newer = Role::spawn(&mut command, "newer", temp.path());
    let older = cluster.role("coordinator");
    assert_eq!(older.ended().code(), Some(4), "{}", older.log());
    lines.add(&older.log());
    // The older database does not know the newest generation of the store.
    lines.add(&fail(&mut cluster.command("coordinator"), 4));
    let status = newer.terminate();
    assert!(status.success(), "{}", newer.log());
    lines.check();
}

/// A cluster with a coordinator only, which answers requests.
fn started(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.spawn("coordinator");
    succeed(&mut cluster.operator(&["runs", "--wait", "60"]));
    cluster
}
