//! SIGTERM in the middle of work: leases are released at once, and training resumes from a checkpoint.

use capstan_runtime::metrics;
use capstan_tests::cluster::{Cluster, Setup, turn};
use serde_json::Value;

use crate::{RUN, pipeline, undisturbed};

/// Longer than the run: a lease that is not released stalls the run and fails the test.
const LEASE_SECONDS: u64 = 600;
/// Stops of a worker, at most, until one falls in the middle of a shard.
const TRIES: usize = 20;

#[test]
fn stopped_processes_release_their_leases_and_lose_no_training() {
    let _turn = turn();
    let expected = undisturbed();
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(Setup {
        lease_seconds: LEASE_SECONDS,
        ..Setup::in_folder(temp.path())
    });
    for name in ["coordinator", "trainer-a", "trainer-b"] {
        cluster.spawn(name);
    }
    cluster.submit(&pipeline(), RUN);
    stop_a_worker_in_a_shard(&mut cluster);
    stop_a_rank_in_a_training(&mut cluster, "trainer-a", "captioner");
    stop_a_rank_in_a_training(&mut cluster, "trainer-b", "clip");
    cluster.await_quiet_end(RUN);
    let expired = cluster.role("coordinator").events_with("lease expired");
    assert_eq!(expired, Vec::<Value>::new());
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

/// Stops the only worker in the middle of a shard, without a grace period; another worker takes over.
fn stop_a_worker_in_a_shard(cluster: &mut Cluster) {
    const WITHOUT_GRACE: (&str, &str) = ("CAPSTAN__WORKER__GRACE_SECONDS", "0");
    for _ in 0..TRIES {
        let earlier = cluster.leased().len();
        cluster.spawn_with("worker-a", &[WITHOUT_GRACE]);
        let held = cluster.freeze("worker-a", RUN, earlier);
        let worker = cluster.role("worker-a");
        worker.signal("TERM");
        worker.signal("CONT");
        let status = worker.ended();
        assert!(status.success(), "worker-a ended with {status}");
        let released = !worker
            .events_with("lease is released unfinished")
            .is_empty();
        cluster.forget("worker-a");
        // The worker may have committed just before, or not have received the lease yet.
        if released {
            assert!(!cluster.is_committed(RUN, &held), "{held}");
            cluster.spawn("worker-b");
            cluster.await_state("another worker's commit", |cluster| {
                cluster.is_committed(RUN, &held).then_some(())
            });
            cluster.spawn("worker-a");
            return;
        }
    }
    panic!("no stop of {TRIES} fell in the middle of a shard");
}

/// Stops a rank in a training without periodic checkpoints, and starts it again.
fn stop_a_rank_in_a_training(cluster: &mut Cluster, name: &str, stage: &str) {
    cluster.role(name).await_ready();
    cluster.await_state("a step", |cluster| {
        let text = cluster.role(name).health("/metrics");
        (steps_of(stage, &text) > 0).then_some(())
    });
    let status = cluster.role(name).terminate();
    assert!(status.success(), "{name} ended with {status}");
    let is_over = cluster.is_committed(RUN, &format!("{RUN}/{stage}/all"));
    assert!(!is_over, "{stage} was committed before {name} was stopped");
    // Whichever rank stops, rank 0 writes a checkpoint. The gang waits until `name` is back.
    cluster.forget(name);
    let kept = cluster.await_state("a checkpoint", |cluster| {
        cluster.newest_checkpoint(RUN, stage)
    });
    assert!(kept > 0, "{name}: {stage} lost its steps");
    cluster.spawn(name);
}

/// Steps of a stage that a trainer's metrics count.
fn steps_of(stage: &str, text: &str) -> u64 {
    let name = format!("{}{{stage=\"{stage}\"}} ", metrics::STEPS);
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix(&name));
    count.map_or(0, |count| count.parse().unwrap())
}
