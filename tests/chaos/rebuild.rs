//! The database is lost during a run and rebuilt from the store.

use std::collections::BTreeSet;

use capstan_tests::cluster::{Cluster, Setup, task_of, turn};
use capstan_tests::harness::{fail, succeed};
use capstan_tests::lines::Lines;
use serde_json::Value;

use crate::{RUN, pipeline, undisturbed};

#[test]
fn a_run_resumes_with_a_rebuilt_database() {
    let mut lines = Lines::expected_in("chaos", "a_run_resumes_with_a_rebuilt_database");
    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let mut cluster = Cluster::start(Setup::in_folder(temp.path()));
    cluster.submit(&pipeline(), RUN);
    cluster.await_state("a checkpoint", |cluster| {
        cluster.newest_checkpoint(RUN, "blip")
    });
    cluster.role("coordinator").kill();
    let committed: BTreeSet<_> = cluster.commits(RUN).iter().map(task_of).collect();
    let leased = cluster.leased().len();
    assert!(committed.len() < expected.commits, "killed too late");
    lose_database(&cluster);

    lines.add(&fail(&mut cluster.command("coordinator"), 4));
    let rebuilt = succeed(&mut cluster.operator(&["state", "rebuild", "--json"]));
    let rebuilt: Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
    assert_eq!(rebuilt["runs"], 1, "{rebuilt}");
    assert_eq!(rebuilt["running"], 1, "{rebuilt}");
    // Workers commit without a coordinator, so there may be more commits by now.
    let found = rebuilt["committed"].as_u64().unwrap() as usize;
    assert!(found >= committed.len(), "{rebuilt}");

    cluster.spawn("coordinator");
    cluster.await_quiet_end(RUN);
    let again = cluster.leased().split_off(leased);
    let again: Vec<_> = again.iter().filter(|t| committed.contains(*t)).collect();
    assert!(
        again.is_empty(),
        "leased again although committed: {again:?}"
    );
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
    lines.check();
}

/// Deletes the database and SQLite's files beside it.
fn lose_database(cluster: &Cluster) {
    let mut lost = 0;
    for entry in std::fs::read_dir(cluster.folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("state.db")
        {
            std::fs::remove_file(path).unwrap();
            lost += 1;
        }
    }
    assert!(lost > 0, "no database");
}
