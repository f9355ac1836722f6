//! The ring over TLS: the whole suite of conformance, and rings that must not form.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

#[path = "conformance.rs"]
mod over_tls;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use capstan_collective::{Collective, Joining, Ring, RingEpoch, RingError, RingPlan, Secret, Tls};
use capstan_runtime::certificates::{self, Validity};
use capstan_runtime::config::Safety;
use capstan_runtime::tls::{Identity, Role, refusal};

const DAY: Duration = Duration::from_secs(86_400);

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn authority() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    certificates::create(
        folder.path(),
        &[],
        Validity::days(1, SystemTime::now()).unwrap(),
    )
    .unwrap();
    folder
}

/// The TLS configuration of a process of this role.
fn tls_of(folder: &Path, role: Role) -> Tls {
    let safety = Safety {
        certificates: folder.to_owned(),
        ..Safety::default()
    };
    let identity = Identity::load(&safety, role).unwrap().unwrap();
    Tls {
        client: identity.ring_client(),
        server: identity.ring_server(),
        name: Role::Trainer.server_name(),
    }
}

fn plan(rank: usize, peers: &[SocketAddr]) -> RingPlan {
    RingPlan {
        run: "run".to_owned(),
        ring_epoch: RingEpoch::default(),
        rank,
        world_size: peers.len(),
        peers: peers.to_vec(),
        secret: Secret([1; 32]),
    }
}

/// Forms a ring of two ranks with these TLS configurations and runs `work` on it.
fn ring_of_two<T: Send>(
    each: [Option<&Tls>; 2],
    deadline_ms: u64,
    work: impl Fn(Ring) -> Result<T, RingError> + Sync,
) -> Vec<Result<T, RingError>> {
    let listeners: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..2)
            .map(|rank| {
                let (plan, work) = (plan(rank, &peers), &work);
                let (listener, tls) = (&listeners[rank], each[rank]);
                scope.spawn(move || {
                    let joining = Joining {
                        step: 0,
                        deadline: after(deadline_ms),
                        tls,
                        given_up: &AtomicBool::new(false),
                    };
                    work(Ring::connect_with(&plan, listener, &joining)?)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Why neither rank joins. The rank that finishes first leaves, so that the other rank may only
/// report its loss.
fn refused(each: [Option<&Tls>; 2]) -> Vec<String> {
    let results = ring_of_two(each, 1_500, |_| Ok(()));
    let line = |result: Result<(), RingError>| {
        let error = result.expect_err("the ring formed");
        refusal(&error).unwrap_or_else(|| error.to_string())
    };
    results.into_iter().map(line).collect()
}

fn assert_contains(lines: &[String], wanted: &str) {
    assert!(lines.iter().any(|line| line == wanted), "{lines:?}");
}

#[test]
fn trainers_of_one_authority_form_a_ring() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let sums = ring_of_two([Some(&trainer), Some(&trainer)], 20_000, |mut ring| {
        let mut sum = vec![ring.rank() as f32; 300_000];
        ring.all_reduce_sum(&mut sum, after(20_000))?;
        Ok(sum)
    });
    for sum in sums {
        assert!(sum.unwrap().iter().all(|value| *value == 1.0));
    }
}

#[test]
fn another_role_may_neither_dial_nor_be_dialled() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let worker = tls_of(folder.path(), Role::Worker);
    let dialler = Tls {
        client: worker.client.clone(),
        ..trainer.clone()
    };
    let lines = refused([Some(&trainer), Some(&dialler)]);
    let wanted = "certificate was refused: it is for another role";
    assert_contains(&lines, &format!("the other side's {wanted}"));
    assert_contains(&lines, &format!("this process's {wanted}"));

    let dialled = Tls {
        server: worker.server.clone(),
        ..trainer.clone()
    };
    let lines = refused([Some(&trainer), Some(&dialled)]);
    assert_contains(
        &lines,
        "the other side's certificate was refused: it does not allow this use",
    );
}

#[test]
fn a_foreign_certificate_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let trainer = tls_of(ours.path(), Role::Trainer);
    let stranger = tls_of(theirs.path(), Role::Trainer);
    let lines = refused([Some(&trainer), Some(&stranger)]);
    assert_contains(
        &lines,
        "the other side's certificate was refused: another CA issued it",
    );
}

#[test]
fn a_rank_without_tls_cannot_join() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let lines = refused([Some(&trainer), None]);
    assert_eq!(lines.len(), 2, "neither joins");
}

#[test]
fn a_certificate_that_expires_between_two_rings_is_refused() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let validity = Validity {
        from: SystemTime::now() - DAY,
        until: SystemTime::now() + Duration::from_secs(2),
    };
    certificates::issue(folder.path(), Role::Trainer, &[], validity).unwrap();
    let expiring = tls_of(folder.path(), Role::Trainer);
    // The times in certificates are whole seconds, and the last second is included.
    while SystemTime::now() < validity.until + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let lines = refused([Some(&trainer), Some(&expiring)]);
    assert_contains(
        &lines,
        "the other side's certificate was refused: it is expired",
    );
}

#[test]
fn a_rank_that_dies_is_detected() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let start = Instant::now();
    let results = ring_of_two([Some(&trainer), Some(&trainer)], 20_000, |mut ring| {
        if ring.rank() == 1 {
            return Ok(());
        }
        ring.all_reduce_sum(&mut vec![1.0; 3_000_000], after(30_000))
    });
    assert!(
        matches!(results[0], Err(RingError::PeerLost { rank: 1, .. })),
        "{results:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_rank_that_stalls_is_detected_at_the_deadline() {
    let folder = authority();
    let trainer = tls_of(folder.path(), Role::Trainer);
    let results = ring_of_two([Some(&trainer), Some(&trainer)], 20_000, |mut ring| {
        if ring.rank() == 1 {
            std::thread::sleep(Duration::from_millis(1_500));
            return Ok(());
        }
        // More than both socket buffers hold, so that sending blocks as well.
        ring.all_reduce_sum(&mut vec![1.0; 8_000_000], after(400))
    });
    assert!(
        matches!(results[0], Err(RingError::Deadline { .. })),
        "{results:?}"
    );
}
