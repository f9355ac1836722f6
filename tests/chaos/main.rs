//! What happens to a cluster, and that it does not matter. Real processes over one store; each run
//! ends equal to an undisturbed one, with as many commits: datasets by the digest of their rows,
//! models by their own.
//!
//! | Scenario | How it is made deterministic | Bug that it found |
//! |---|---|---|
//! | [`faults`]: SIGKILL at each of the five points of the coordinator | the process kills itself at a named point, once per start; the next start has the next point | |
//! | the five points of a worker | the same, on one of two workers | |
//! | the five points of a trainer | the same, on the one whose name sorts first: it is rank 0 of every gang | a rank whose peer dies before the ring is formed waits for all of `ring_timeout_seconds`: bounded, not mended |
//! | [`stops`]: SIGTERM of a worker in mid-shard | no grace; sent while it holds a lease of the only task there is | |
//! | SIGTERM of rank 0, then of rank 1, in mid-training | sent when its metrics count a step, in trainings that write checkpoints only where they are stopped | |
//! | [`rebuild`]: the database is lost in mid-run and made anew from the store | the coordinator is killed when a training has begun; leases are counted by the tasks that they name | |
//! | [`zombies`]: SIGSTOP of a worker for longer than its lease | stopped while it holds a lease whose task is not committed; continued when another worker has committed it | |
//! | [`fences`]: two coordinators on one database, or over one store | both are there at the same time; the generation is read from the store | a coordinator that may not serve had announced itself as ready |
//!
//! Points and what is true at each are listed in `capstan_runtime::fault`. Lines of this table that
//! name no bug have found none yet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod faults;
mod fences;
mod rebuild;
mod stops;
mod zombies;

use std::path::PathBuf;
use std::sync::OnceLock;

use capstan_tests::cluster::{Cluster, Setup};
use capstan_tests::harness::{Outcome, root};

/// Id of every run: each has a store of its own.
const RUN: &str = "chaos";

fn pipeline() -> PathBuf {
    root().join("tests/chaos/pipeline.toml")
}

/// What the pipeline comes to when nothing happens; found out once, in the turn of whoever asks first.
fn undisturbed() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(Setup::in_folder(temp.path()));
        cluster.submit(&pipeline(), RUN);
        cluster.await_quiet_end(RUN);
        let outcome = cluster.outcome(RUN);
        assert_eq!(outcome.models.len(), 4, "a vocabulary and three models");
        cluster.stop();
        outcome
    })
}
