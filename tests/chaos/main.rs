//! Faults in a cluster of real processes over one store. Each run has to end equal to an undisturbed
//! run: datasets by the digest of their rows, models by their digest, the number of commits.
//!
//! | Scenario | How it is made deterministic | Bug found |
//! |---|---|---|
//! | [`faults`]: SIGKILL at each of the five points of the coordinator | the process kills itself at a named point, once per start; the next start is armed with the next point | |
//! | the five points of a worker | the same, on one of two workers | |
//! | the five points of a trainer | the same, on the trainer whose name sorts first, which is rank 0 of every gang | a rank whose peer dies before the ring is formed waits for the whole `ring_timeout_seconds`: bounded, not fixed |
//! | [`stops`]: SIGTERM of a worker in the middle of a shard | no grace period; sent while the worker holds a lease | a lease that was granted while the worker cancelled its request lasted until it expired |
//! | SIGTERM of rank 0, then of rank 1, in the middle of a training | sent when the trainer's metrics count a step; these trainings write checkpoints only when they are stopped | |
//! | [`rebuild`]: the database is lost during a run and rebuilt from the store | the coordinator is killed after the first checkpoint; leases are counted by task | |
//! | [`zombies`]: SIGSTOP of a worker for longer than its lease | stopped while it holds a lease whose task is not committed; continued after another worker has committed the task | |
//! | SIGSTOP of the coordinator for longer than a lease, twice | stopped once tasks are leased; no lease may expire | its first look at the clock took every lease away |
//! | [`fences`]: two coordinators on one database, or on one store | both run at the same time; the generation is read from the store | a coordinator that may not serve announced that it was ready |
//! | [`random`]: kills, freezes, cuts and full disks at random moments | the events and their times are drawn from a seed | |
//!
//! `capstan_runtime::fault` lists the points and what is true at each. A scenario without a bug has
//! found none yet.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod faults;
mod fences;
mod link;
mod random;
mod rebuild;
mod schedule;
mod stops;
mod zombies;

use std::path::PathBuf;
use std::sync::OnceLock;

use capstan_tests::cluster::{Cluster, Setup};
use capstan_tests::harness::{Outcome, root};

/// Id of every run. Each run has its own store.
const RUN: &str = "chaos";

fn pipeline() -> PathBuf {
    root().join("tests/chaos/pipeline.toml")
}

/// The outcome of the pipeline without faults. The first test that needs it computes it, while it
/// holds the cluster lock.
fn undisturbed() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(Setup::in_folder(temp.path()));
        cluster.submit(&pipeline(), RUN);
        cluster.await_quiet_end(RUN);
        let outcome = cluster.outcome(RUN);
        assert_eq!(outcome.models.len(), 4, "a tokenizer and three models");
        cluster.stop();
        outcome
    })
}
