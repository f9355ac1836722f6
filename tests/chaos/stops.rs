//! SIGTERM in the middle of work: what is held goes back at once, what was trained is kept.

use capstan_runtime::metrics;
use capstan_tests::cluster::{Cluster, Setup, turn};
use serde_json::Value;

use crate::{RUN, pipeline, undisturbed};

/// Longer than the run: a lease that is not given back stops it, so that none can be missed.
const LEASE_SECONDS: u64 = 600;
/// Stops of a worker until one comes in mid-shard.
const TRIES: usize = 20;

#[test]
fn what_a_stopped_process_holds_goes_back_and_is_not_lost() {
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
    a_worker_in_mid_shard(&mut cluster);
    a_rank_in_mid_training(&mut cluster, "trainer-a", "captioner");
    a_rank_in_mid_training(&mut cluster, "trainer-b", "clip");
    cluster.await_quiet_end(RUN);
    let expired = cluster.role("coordinator").told("lease expired");
    assert_eq!(expired, Vec::<Value>::new());
    assert_eq!(&cluster.outcome(RUN), expected);
    cluster.stop();
}

/// The only worker is stopped while it works, without any time to finish; another one takes over.
fn a_worker_in_mid_shard(cluster: &mut Cluster) {
    const WITHOUT_GRACE: (&str, &str) = ("CAPSTAN__WORKER__GRACE_SECONDS", "0");
    for _ in 0..TRIES {
        cluster.spawn_with("worker-a", &[WITHOUT_GRACE]);
        let held = cluster.freeze("worker-a", RUN);
        let worker = cluster.role("worker-a");
        worker.signal("TERM");
        worker.signal("CONT");
        let status = worker.ended();
        assert!(status.success(), "worker-a ended with {status}");
        let goes_back = !worker.told("lease is released unfinished").is_empty();
        cluster.forget("worker-a");
        // Its last act may have been the commit, or the answer had not reached it yet.
        if goes_back {
            assert!(!cluster.is_committed(RUN, &held), "{held}");
            cluster.spawn("worker-b");
            cluster.await_state("another worker's commit", |cluster| {
                cluster.is_committed(RUN, &held).then_some(())
            });
            cluster.spawn("worker-a");
            return;
        }
    }
    panic!("{TRIES} stops, and each time the shard was done");
}

/// A rank is stopped in a training that writes no checkpoints by itself, and started again.
fn a_rank_in_mid_training(cluster: &mut Cluster, name: &str, stage: &str) {
    cluster.role(name).await_ready();
    cluster.await_state("a step", |cluster| {
        let text = cluster.role(name).health("/metrics");
        (steps_of(stage, &text) > 0).then_some(())
    });
    let status = cluster.role(name).terminate();
    assert!(status.success(), "{name} ended with {status}");
    let is_over = cluster.is_committed(RUN, &format!("{RUN}/{stage}/all"));
    assert!(!is_over, "{stage} was over before {name} was stopped");
    // Rank 0 keeps what was done, whichever rank stops; nobody trains before `name` is back.
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
