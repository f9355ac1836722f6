//! Three hosts with mutual TLS; one of them loses its network.
//!
//! ```text
//!  1  MinIO, demo web, coordinator      2  worker-a, trainer-a      3  worker-b, trainer-b
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use capstan_tests::cluster::{Cluster, Setup, turn};
use capstan_tests::harness::{Outcome, root};
use capstan_tests::minio::Minio;
use capstan_tests::place::Place;

use crate::network::Network;

/// How long the host has no network: many lease periods.
const AWAY: Duration = Duration::from_secs(60);
const RUN: &str = "hosts";
/// The host that loses its network.
const LOST: u8 = 3;

/// The host of a role.
fn host(role: &str) -> u8 {
    match role {
        "worker-a" | "trainer-a" => 2,
        "worker-b" | "trainer-b" => LOST,
        _ => 1,
    }
}

#[test]
fn a_host_without_network_loses_only_its_own_leases() {
    let _turn = turn();
    let Some(network) = Network::of(3) else {
        return;
    };
    let expected = on_one_host();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let minio = Minio::start_at(network.place(1));
    let Some(minio) = runtime.block_on(minio).unwrap() else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let places: BTreeMap<u8, Place> = (1..=3).map(|host| (host, network.place(host))).collect();
    let mut cluster = Cluster::start(Setup {
        store: minio.url("hosts"),
        variables: minio.variables(),
        secure: true,
        places: Box::new(move |role| places[&host(role)].clone()),
        ..Setup::in_folder(temp.path())
    });
    cluster.submit(&root().join("tests/chaos/pipeline.toml"), RUN);
    // The host's trainer holds a rank now; its worker may hold a task.
    cluster.await_state("a checkpoint", |cluster| {
        cluster.newest_checkpoint(RUN, "blip")
    });
    network.set_link(LOST, false);
    std::thread::sleep(AWAY);
    network.set_link(LOST, true);
    cluster.await_quiet_end(RUN);
    cluster.check_done(RUN);
    only_leases_of_the_lost_host_expired(&mut cluster);
    assert_eq!(cluster.outcome(RUN), expected);
    cluster.stop();
}

/// The outcome of the same pipeline on one host, undisturbed.
fn on_one_host() -> Outcome {
    let temp = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(Setup::in_folder(temp.path()));
    cluster.submit(&root().join("tests/chaos/pipeline.toml"), RUN);
    cluster.await_quiet_end(RUN);
    let outcome = cluster.outcome(RUN);
    cluster.stop();
    outcome
}

/// Checks that every expired lease was held by a process of the lost host, alone or with others.
fn only_leases_of_the_lost_host_expired(cluster: &mut Cluster) {
    let mut holders: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    let mut expired = 0;
    for event in cluster.role("coordinator").events() {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["message"].as_str() {
            Some("leased") => {
                let (attempt, host) = (text("attempt"), host(&text("worker")));
                let held = holders.entry(text("task")).or_default();
                if held.0 != attempt {
                    *held = (attempt, Vec::new());
                }
                held.1.push(host);
            }
            Some("lease expired") => {
                let (_, hosts) = &holders[&text("task")];
                assert!(hosts.contains(&LOST), "{event}: held by hosts {hosts:?}");
                expired += 1;
            }
            _ => {}
        }
    }
    assert!(
        expired > 0,
        "no lease expired: the host did not lose its network"
    );
}
