//! The database is lost in mid-run: the store knows what is done.

use std::collections::BTreeSet;

use capstan_tests::cluster::{Cluster, Setup, task_of, turn};
use capstan_tests::harness::{fail, one_line, succeed};
use serde_json::Value;

use crate::{RUN, pipeline, undisturbed};

#[test]
fn a_database_made_anew_goes_on_where_the_run_stood() {
    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
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

    let stderr = fail(&mut cluster.command("coordinator"), 4);
    assert!(one_line(&stderr).contains("state rebuild"), "{stderr}");
    let rebuilt = succeed(&mut cluster.operator(&["state", "rebuild", "--json"]));
    let rebuilt: Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
    assert_eq!(rebuilt["runs"], 1, "{rebuilt}");
    assert_eq!(rebuilt["running"], 1, "{rebuilt}");
    // A worker needs no coordinator to commit what it holds.
    let found = rebuilt["committed"].as_u64().unwrap() as usize;
    assert!(found >= committed.len(), "{rebuilt}");

    cluster.spawn("coordinator");
    cluster.await_quiet_end(RUN);
    let again = cluster.leased().split_off(leased);
    let again: Vec<_> = again.iter().filter(|t| committed.contains(*t)).collect();
    assert!(again.is_empty(), "leased again though committed: {again:?}");
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

/// Deletes the database with all that lies beside it.
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
