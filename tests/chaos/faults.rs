//! SIGKILL at every named point: one run per role, in which one process of that role dies at its
//! five points one after the other.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;

use capstan_runtime::fault;
use capstan_tests::cluster::{Cluster, ROLES, Setup, turn};

use crate::{RUN, pipeline, undisturbed};

/// What the second worker is left with while the first one is killed: it alone crawls, captions and
/// filters, so that it comes to its points whatever the speed of the two.
const LEFT_TO_OTHERS: (&str, &str) = ("CAPSTAN__WORKER__ROLES", r#"["curate", "evaluate"]"#);

/// A run in which `victim` dies at `points`, in this order; each is armed when the one before it
/// has killed.
fn killed_at(victim: &str, points: &[&str]) {
    let kind = victim.split('-').next().unwrap();
    let of_role = fault::POINTS.iter().map(|(name, _)| *name);
    let of_role = of_role.filter(|name| name.starts_with(kind));
    let named = points.iter().map(|point| point.split(':').next().unwrap());
    let named: BTreeSet<_> = named.collect();
    assert_eq!(named, of_role.collect(), "every point of the table");

    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(Setup::in_folder(temp.path()));
    let mut armed: VecDeque<&str> = points.iter().copied().collect();
    for name in ROLES {
        match name {
            name if name == victim => cluster.spawn_armed(name, armed.front().copied()),
            "worker-b" if kind == "worker" => cluster.spawn_with(name, &[LEFT_TO_OTHERS]),
            name => cluster.spawn(name),
        }
    }
    cluster.submit(&pipeline(), RUN);
    cluster.await_end(RUN, |cluster, name, status| {
        assert_eq!(name, victim, "{name} ended by itself: {status}");
        assert_eq!(status.signal(), Some(9), "{name} ended with {status}");
        let point = armed.pop_front().expect("it was armed");
        let name = point.split(':').next().unwrap();
        let log = cluster.role(victim).log();
        let line = log.lines().last().unwrap_or_default();
        assert!(line.starts_with(&format!("fault point {name}:")), "{line}");
        cluster.spawn_armed(victim, armed.front().copied());
    });
    assert!(
        armed.is_empty(),
        "the run ended before {armed:?} were passed"
    );
    cluster.check_done(RUN);
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

#[test]
fn a_coordinator_may_die_at_any_point() {
    killed_at(
        "coordinator",
        &[
            "coordinator.after_lease:10",
            // At its start, in mid-run.
            "coordinator.after_generation",
            "coordinator.before_complete:10",
            "coordinator.before_publish",
            "coordinator.after_publish:2",
        ],
    );
}

#[test]
fn a_worker_may_die_at_any_point() {
    killed_at(
        "worker-a",
        &[
            // The crawl takes longer than a heartbeat's period: one host answers too late.
            "worker.in_heartbeat",
            "worker.after_lease:2",
            "worker.after_commit:2",
            "worker.before_commit:2",
            "worker.mid_shard:2",
        ],
    );
}

#[test]
fn a_trainer_may_die_at_any_point() {
    killed_at(
        // Ranks go by name: rank 0, the only one that writes checkpoints, models and commits.
        "trainer-a",
        &[
            "trainer.after_join",
            "trainer.mid_step:3",
            "trainer.in_checkpoint",
            "trainer.before_model",
            "trainer.after_commit",
        ],
    );
}
