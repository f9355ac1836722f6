//! A process that is suspended for longer than a lease changes nothing when it continues.

use std::time::Duration;

use capstan_tests::cluster::{Cluster, Setup, task_of, turn};

use crate::{RUN, pipeline, undisturbed};

#[test]
fn a_worker_suspended_beyond_its_lease_changes_nothing() {
    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(Setup::in_folder(temp.path()));
    for name in ["coordinator", "worker-a", "trainer-a", "trainer-b"] {
        cluster.spawn(name);
    }
    cluster.submit(&pipeline(), RUN);
    let held = cluster.freeze("worker-a", RUN, 0);
    cluster.spawn("worker-b");
    let by = |cluster: &Cluster| {
        let commits = cluster.commits(RUN);
        let commit = commits.into_iter().find(|commit| task_of(commit) == held);
        commit.map(|commit| (commit.worker.to_string(), commit.lease_epoch))
    };
    let first = cluster.await_state("the commit of worker-b", |cluster| by(cluster));
    assert_eq!(first.0, "worker-b");
    cluster.role("worker-a").signal("CONT");
    cluster.await_quiet_end(RUN);
    assert_eq!(by(&cluster), Some(first), "{held}");
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a real process stands still in real time"
)]
fn a_coordinator_suspended_beyond_a_lease_takes_no_lease_away() {
    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(Setup::in_folder(temp.path()));
    cluster.submit(&pipeline(), RUN);
    let lease = Duration::from_secs(Setup::in_folder(temp.path()).lease_seconds);
    for leases in [1, 4] {
        cluster.await_state("leases", |cluster| {
            (cluster.leased().len() >= leases).then_some(())
        });
        cluster.role("coordinator").signal("STOP");
        std::thread::sleep(lease * 2);
        cluster.role("coordinator").signal("CONT");
    }
    cluster.await_quiet_end(RUN);
    assert_eq!(&cluster.outcome(RUN), expected);
    let expired = cluster.role("coordinator").events_with("lease expired");
    assert!(expired.is_empty(), "{expired:?}");
    cluster.stop();
}
