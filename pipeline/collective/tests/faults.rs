//! Rings that must not form, and peers that die, stall or send false claims.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capstan_collective::{Collective, Joining, Ring, RingEpoch, RingError, RingPlan, Secret};

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn listeners(n: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> = (0..n)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    (listeners, peers)
}

fn plan(rank: usize, peers: &[SocketAddr]) -> RingPlan {
    RingPlan {
        run: "run".to_owned(),
        ring_epoch: RingEpoch {
            generation: 3,
            counter: 5,
        },
        rank,
        world_size: peers.len(),
        peers: peers.to_vec(),
        secret: Secret([1; 32]),
    }
}

/// Why a rank did not join. A rank whose neighbour has left waits until its deadline and then
/// reports why it refused the last connection.
fn cause(error: Option<RingError>) -> Option<RingError> {
    match error {
        Some(RingError::NotJoined {
            last: Some(last), ..
        }) => Some(*last),
        other => other,
    }
}

/// Two ranks join; `change` alters rank 1's plan and step. Returns the causes of both failures.
fn join_with(
    change: impl FnOnce(&mut RingPlan, &mut u64),
) -> (Option<RingError>, Option<RingError>) {
    let (listeners, peers) = listeners(2);
    let correct = plan(0, &peers);
    let (mut changed, mut step) = (plan(1, &peers), 10);
    change(&mut changed, &mut step);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| Ring::connect(&changed, &listeners[1], step, after(1500)).err());
        let mine = Ring::connect(&correct, &listeners[0], 10, after(1500)).err();
        (cause(mine), cause(other.join().unwrap()))
    })
}

#[test]
fn a_stale_epoch_is_refused_by_name() {
    let (mine, stale) = join_with(|plan, _| plan.ring_epoch.counter = 4);
    let epoch = |counter| RingEpoch {
        generation: 3,
        counter,
    };
    assert!(
        matches!(stale, Some(RingError::StaleEpoch { rank: 0, mine, theirs })
            if mine == epoch(4) && theirs == epoch(5)),
        "the stale rank got {stale:?}"
    );
    assert!(
        matches!(mine, Some(RingError::StalePeer { rank: 1, .. })),
        "{mine:?}"
    );
}

#[test]
fn a_newer_generation_beats_a_higher_counter() {
    let (mine, _) = join_with(|plan, _| {
        plan.ring_epoch = RingEpoch {
            generation: 4,
            counter: 0,
        }
    });
    assert!(
        matches!(mine, Some(RingError::StaleEpoch { rank: 1, .. })),
        "{mine:?}"
    );
}

#[test]
fn a_foreign_run_is_refused() {
    let (mine, other) = join_with(|plan, _| plan.run = "another".to_owned());
    assert!(
        matches!(mine, Some(RingError::ForeignRun { rank: 1, .. })),
        "{mine:?}"
    );
    assert!(
        matches!(other, Some(RingError::ForeignRun { rank: 0, .. })),
        "{other:?}"
    );
}

#[test]
fn another_step_is_refused() {
    let (mine, other) = join_with(|_, step| *step = 11);
    assert!(
        matches!(
            mine,
            Some(RingError::WrongStep {
                mine: 10,
                theirs: 11,
                ..
            })
        ),
        "{mine:?}"
    );
    assert!(
        matches!(
            other,
            Some(RingError::WrongStep {
                mine: 11,
                theirs: 10,
                ..
            })
        ),
        "{other:?}"
    );
}

#[test]
fn a_wrong_secret_is_refused() {
    let (mine, other) = join_with(|plan, _| plan.secret = Secret([2; 32]));
    // The rank that finishes first leaves. The other rank detects this in its dialler, in its
    // acceptor, or by the end of the connection.
    let errors = [mine, other];
    let refused =
        |e: &Option<RingError>| matches!(e, Some(RingError::Unauthenticated { rank: 0 | 1 }));
    assert!(errors.iter().any(refused), "{errors:?}");
    assert!(errors.iter().all(Option::is_some), "{errors:?}");
}

#[test]
fn two_ranks_with_the_same_number_are_refused() {
    let (listeners, peers) = listeners(2);
    let twin = plan(0, &[peers[0], peers[1]]);
    let errors = std::thread::scope(|scope| {
        let other = scope.spawn(|| Ring::connect(&twin, &listeners[1], 0, after(1000)).err());
        (
            Ring::connect(&twin, &listeners[0], 0, after(1000)).err(),
            other.join().unwrap(),
        )
    });
    assert!(errors.0.is_some() && errors.1.is_some(), "{errors:?}");
}

#[test]
fn a_missing_rank_is_named_at_the_deadline() {
    let (listeners, peers) = listeners(2);
    let start = Instant::now();
    let error = Ring::connect(&plan(0, &peers), &listeners[0], 0, after(300)).err();
    assert!(
        matches!(error, Some(RingError::NotJoined { rank: 1, .. })),
        "{error:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn joining_stops_when_it_is_given_up() {
    let (listeners, peers) = listeners(2);
    let (start, given_up) = (Instant::now(), AtomicBool::new(false));
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            given_up.store(true, Ordering::SeqCst);
        });
        let joining = Joining {
            step: 0,
            deadline: after(30_000),
            tls: None,
            given_up: &given_up,
        };
        Ring::connect_with(&plan(0, &peers), &listeners[0], &joining).err()
    });
    assert!(
        matches!(error, Some(RingError::GivenUp { rank: 1 })),
        "{error:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn other_connections_do_not_delay_the_ring() {
    let (listeners, peers) = listeners(3);
    // Some send nothing, some send garbage, some send half a hello. They outnumber the slots.
    let mut strangers = Vec::new();
    for round in 0..80 {
        let mut stranger = TcpStream::connect(peers[round % 3]).unwrap();
        if round % 3 == 1 {
            stranger.write_all(&[b'x'; 400]).unwrap();
        } else if round % 3 == 2 {
            stranger.write_all(b"cpsring\x02 and then nothing").unwrap();
        }
        strangers.push(stranger);
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (rank, listener) in listeners.iter().enumerate() {
            let plan = plan(rank, &peers);
            scope.spawn(move || {
                let mut ring = Ring::connect(&plan, listener, 0, after(20_000)).unwrap();
                let mut sum = [rank as f32];
                ring.all_reduce_sum(&mut sum, after(20_000)).unwrap();
                assert_eq!(sum, [3.0]);
            });
        }
    });
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "other connections delayed the ring"
    );
}

#[test]
fn a_recorded_handshake_proves_nothing() {
    // A relay between the two ranks records what rank 1 sends, then replays it to a new ring.
    let (listeners, peers) = listeners(2);
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let relayed = vec![relay.local_addr().unwrap(), peers[1]];
    let recorded = std::thread::scope(|scope| {
        let other =
            scope.spawn(|| Ring::connect(&plan(1, &relayed), &listeners[1], 0, after(5000)));
        let mine = scope.spawn(|| Ring::connect(&plan(0, &peers), &listeners[0], 0, after(5000)));
        let (mut from, _) = relay.accept().unwrap();
        let mut to = TcpStream::connect(peers[0]).unwrap();
        let mut pump = |bytes: usize, forward: bool| {
            use std::io::Read;
            let mut buffer = vec![0; bytes];
            let (a, b) = if forward {
                (&mut from, &mut to)
            } else {
                (&mut to, &mut from)
            };
            a.read_exact(&mut buffer).unwrap();
            b.write_all(&buffer).unwrap();
            buffer
        };
        let hello = pump(112, true);
        pump(112 + 32, false);
        let proof = pump(32, true);
        assert!(other.join().unwrap().is_ok() && mine.join().unwrap().is_ok());
        [hello, proof].concat()
    });
    let mut replay = TcpStream::connect(peers[0]).unwrap();
    replay.write_all(&recorded).unwrap();
    let error = Ring::connect(&plan(0, &peers), &listeners[0], 0, after(500)).err();
    let Some(RingError::NotJoined { rank: 1, .. }) = &error else {
        panic!("{error:?}")
    };
}

/// Three ranks; rank 2 calls `fault` with its ring instead of the second reduction.
fn with_fault(fault: impl FnOnce(Ring) + Send, deadline_ms: u64) -> Vec<Result<(), RingError>> {
    let (listeners, peers) = listeners(3);
    let mut fault = Some(fault);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let plan = plan(rank, &peers);
                let fault = if rank == 2 { fault.take() } else { None };
                scope.spawn(move || {
                    let mut ring = Ring::connect(&plan, listener, 0, after(5000))?;
                    ring.all_reduce_sum(&mut vec![1.0; 300_000], after(5000))?;
                    if let Some(fault) = fault {
                        fault(ring);
                        return Ok(());
                    }
                    let result = ring.all_reduce_sum(&mut vec![1.0; 300_000], after(deadline_ms));
                    assert!(result.is_err());
                    let next = ring.barrier(after(5000));
                    assert!(matches!(next, Err(RingError::Broken)), "{next:?}");
                    result
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_rank_that_dies_is_detected_by_all() {
    let start = Instant::now();
    let results = with_fault(drop, 30_000);
    assert!(
        matches!(results[0], Err(RingError::PeerLost { .. })),
        "{:?}",
        results[0]
    );
    assert!(
        matches!(results[1], Err(RingError::PeerLost { .. })),
        "{:?}",
        results[1]
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "detected only at the deadline"
    );
}

#[test]
fn a_rank_that_stalls_is_detected_at_the_deadline() {
    let results = with_fault(
        |ring| {
            std::thread::sleep(Duration::from_millis(1500));
            drop(ring);
        },
        400,
    );
    let stalled = results[..2]
        .iter()
        .any(|r| matches!(r, Err(RingError::Deadline { .. })));
    assert!(stalled, "{results:?}");
}
