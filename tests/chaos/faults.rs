//! SIGKILL at every named point: one run per role, in which one process of that role is killed at each
//! of the role's five points.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;

use capstan_runtime::fault;
use capstan_tests::cluster::{Cluster, ROLES, Setup, turn};

use crate::{RUN, pipeline, undisturbed};

/// Roles of the second worker while the first one is killed. Only the first worker crawls, captions and
/// filters, so it reaches its points whatever the speed of the two.
const OTHER_ROLES: (&str, &str) = ("CAPSTAN__WORKER__ROLES", r#"["curate", "evaluate"]"#);

/// Runs the pipeline and kills `victim` at `points`, in this order. Each restart arms the next point.
fn killed_at(victim: &str, points: &[&str]) {
    let kind = victim.split('-').next().unwrap();
    let of_role = fault::POINTS.iter().map(|(name, _)| *name);
    let of_role = of_role.filter(|name| name.starts_with(kind));
    let named = points.iter().map(|point| point.split(':').next().unwrap());
    let named: BTreeSet<_> = named.collect();
    assert_eq!(
        named,
        of_role.collect(),
        "points differ from those in `fault::POINTS`"
    );

    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(Setup::in_folder(temp.path()));
    let mut armed: VecDeque<&str> = points.iter().copied().collect();
    for name in ROLES {
        match name {
            name if name == victim => cluster.spawn_armed(name, armed.front().copied()),
            "worker-b" if kind == "worker" => cluster.spawn_with(name, &[OTHER_ROLES]),
            name => cluster.spawn(name),
        }
    }
    cluster.submit(&pipeline(), RUN);
    cluster.await_end(RUN, |cluster, name, status| {
        assert_eq!(name, victim, "{name} exited: {status}");
        assert_eq!(status.signal(), Some(9), "{name} ended with {status}");
        let point = armed
            .pop_front()
            .expect("the victim dies only at an armed point");
        let name = point.split(':').next().unwrap();
        let log = cluster.role(victim).log();
        // Other threads may write a line between the point's own and the kill.
        let mut lines = log.lines().rev();
        let line = lines.find(|line| line.starts_with("fault point "));
        let line = line.unwrap_or_else(|| panic!("{victim} died at no point:\n{log}"));
        assert!(line.starts_with(&format!("fault point {name}:")), "{line}");
        cluster.spawn_armed(victim, armed.front().copied());
    });
    assert!(
        armed.is_empty(),
        "the run ended before the points {armed:?}"
    );
    cluster.check_done(RUN);
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

#[test]
fn a_run_survives_a_coordinator_killed_at_each_point() {
    killed_at(
        "coordinator",
        &[
            "coordinator.after_lease:10",
            // At a start in the middle of the run.
            "coordinator.after_generation",
            "coordinator.before_complete:10",
            "coordinator.before_publish",
            "coordinator.after_publish:2",
        ],
    );
}

#[test]
fn a_run_survives_a_worker_killed_at_each_point() {
    killed_at(
        "worker-a",
        &[
            // A crawl task takes longer than a heartbeat period, because one host answers too late.
            "worker.in_heartbeat",
            "worker.after_lease:2",
            "worker.after_commit:2",
            "worker.before_commit:2",
            "worker.mid_shard:2",
        ],
    );
}

#[test]
fn a_run_survives_a_trainer_killed_at_each_point() {
    killed_at(
        // Ranks are ordered by name. Rank 0 alone writes checkpoints, models and commits.
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
