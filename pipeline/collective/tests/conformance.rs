//! One suite for every `Collective`: the TCP ring of each world size and the ring of one rank
//! against a reference sum. `tls.rs` runs all of it once more over TLS.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use capstan_collective::{
    Collective, Joining, Ring, RingEpoch, RingError, RingPlan, Secret, SoloRing, Tls,
};
use capstan_runtime::certificates::{self, Validity};
use capstan_runtime::config::Safety;
use capstan_runtime::tls::{Identity, Role};
use proptest::prelude::*;

/// No TLS if the suite is its own test target; a trainer's TLS if it is a module of `tls.rs`.
fn tls() -> Option<&'static Tls> {
    static TRAINER: OnceLock<Tls> = OnceLock::new();
    module_path!().contains("over_tls").then(|| {
        TRAINER.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            certificates::create(
                folder.path(),
                &[],
                Validity::days(1, SystemTime::now()).unwrap(),
            )
            .unwrap();
            let safety = Safety {
                certificates: folder.path().to_owned(),
                ..Safety::default()
            };
            let trainer = Identity::load(&safety, Role::Trainer).unwrap().unwrap();
            Tls {
                client: trainer.ring_client(),
                server: trainer.ring_server(),
                name: Role::Trainer.server_name(),
            }
        })
    })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Runs `work` on every rank of a ring of threads. Returns the results in rank order.
fn on_ring<T: Send>(world_size: usize, work: impl Fn(&mut Ring) -> T + Sync) -> Vec<T> {
    let listeners: Vec<TcpListener> = (0..world_size)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let (peers, work) = (peers.clone(), &work);
                scope.spawn(move || {
                    let plan = RingPlan {
                        run: "r".to_owned(),
                        ring_epoch: RingEpoch {
                            generation: 1,
                            counter: 1,
                        },
                        rank,
                        world_size,
                        peers,
                        secret: Secret([7; 32]),
                    };
                    let joining = Joining {
                        step: 0,
                        deadline: soon(),
                        tls: tls(),
                        given_up: &AtomicBool::new(false),
                    };
                    let mut ring = Ring::connect_with(&plan, listener, &joining).unwrap();
                    work(&mut ring)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values whose sum depends on the order of addition.
fn values(rank: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let x = (i as u32 ^ 0x9e37)
                .wrapping_mul(2_654_435_761)
                .wrapping_add(rank as u32 * 77);
            (f32::from_bits(x >> 9 | 0x3f80_0000) - 1.5) * 10f32.powi((x % 9) as i32 - 4)
        })
        .collect()
}

fn reference(world_size: usize, len: usize) -> Vec<f64> {
    let mut sum = vec![0.0; len];
    for rank in 0..world_size {
        for (total, value) in sum.iter_mut().zip(values(rank, len)) {
            *total += f64::from(value);
        }
    }
    sum
}

fn check_sum(world_size: usize, len: usize) {
    let reduce = |ring: &mut Ring| {
        let mut grads = values(ring.rank(), len);
        ring.all_reduce_sum(&mut grads, soon()).unwrap();
        grads
    };
    let sums = on_ring(world_size, reduce);
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for sum in &sums {
        assert_eq!(bits(sum), bits(&sums[0]), "every rank holds the same bits");
    }
    let magnitude = (0..world_size).fold(vec![0f64; len], |mut total, rank| {
        total
            .iter_mut()
            .zip(values(rank, len))
            .for_each(|(t, v)| *t += f64::from(v.abs()));
        total
    });
    for ((sum, want), scale) in sums[0]
        .iter()
        .zip(reference(world_size, len))
        .zip(magnitude)
    {
        let error = (f64::from(*sum) - want).abs();
        assert!(error <= 1e-6 * scale, "{sum} instead of {want}");
    }
    assert_eq!(
        bits(&on_ring(world_size, reduce)[0]),
        bits(&sums[0]),
        "a second ring agrees"
    );
}

#[test]
fn sums_agree_with_the_reference_for_every_world_and_length() {
    for world_size in 1..=5 {
        for len in [0, 1, 2, 3, 4, 5, 31, 1023, 32_768 * 3 + 17] {
            check_sum(world_size, len);
        }
    }
}

#[test]
fn messages_larger_than_every_socket_buffer_do_not_deadlock() {
    check_sum(2, 8_000_001);
    check_sum(3, 6_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sums_agree_for_drawn_lengths(world_size in 1usize..=5, len in 0usize..150_000) {
        check_sum(world_size, len);
    }

    #[test]
    fn gathers_return_the_bytes_of_each_rank(
        lengths in proptest::collection::vec(0usize..400_000, 1..=5),
    ) {
        let block = |rank: usize| -> Vec<u8> {
            (0..lengths[rank]).map(|i| (i * 31 + rank * 7) as u8).collect()
        };
        let all: Vec<Vec<u8>> = (0..lengths.len()).map(block).collect();
        for got in on_ring(lengths.len(), |ring| {
            ring.all_gather_bytes(&block(ring.rank()), soon()).unwrap()
        }) {
            prop_assert_eq!(&got, &all);
        }
    }

    #[test]
    fn broadcasts_copy_the_root(world_size in 1usize..=5, root in 0usize..5, len in 0usize..90_000) {
        let root = root % world_size;
        for got in on_ring(world_size, |ring| {
            let mut mine = values(ring.rank(), len);
            ring.broadcast(&mut mine, root, soon()).unwrap();
            mine
        }) {
            prop_assert_eq!(&got, &values(root, len));
        }
    }
}

#[test]
fn float_gathers_keep_ranks_and_lengths_apart() {
    for got in on_ring(4, |ring| {
        let mine = values(ring.rank(), ring.rank() * 3);
        ring.all_gather(&mine, soon()).unwrap()
    }) {
        let want: Vec<Vec<f32>> = (0..4).map(|rank| values(rank, rank * 3)).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn a_barrier_holds_until_the_last_rank_calls_it() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let arrived = AtomicUsize::new(0);
    let seen = on_ring(4, |ring| {
        for round in 1..=20 {
            arrived.fetch_add(1, Ordering::SeqCst);
            ring.barrier(soon()).unwrap();
            assert!(arrived.load(Ordering::SeqCst) >= 4 * round);
            ring.barrier(soon()).unwrap();
        }
        arrived.load(Ordering::SeqCst)
    });
    assert_eq!(seen, [80; 4]);
}

#[test]
fn operations_follow_one_another_on_one_ring() {
    on_ring(3, |ring| {
        for round in 0..50 {
            let mut grads = vec![ring.rank() as f32 + round as f32; 1000];
            ring.all_reduce_sum(&mut grads, soon()).unwrap();
            assert_eq!(grads, vec![3.0 + 3.0 * round as f32; 1000]);
            assert_eq!(ring.all_gather(&[1.0], soon()).unwrap(), vec![vec![1.0]; 3]);
        }
    });
}

#[test]
fn bytes_are_counted_as_the_cost_model_says() {
    for bytes in on_ring(2, |ring| {
        ring.all_reduce_sum(&mut vec![1.0; 1000], soon()).unwrap();
        ring.bytes_reduced()
    }) {
        assert_eq!(bytes, 4000, "2 (n - 1) / n of 4,000 bytes");
    }
}

#[test]
fn ranks_in_different_operations_fail() {
    let results = on_ring(2, |ring| {
        if ring.rank() == 0 {
            ring.all_reduce_sum(&mut [1.0; 8], soon())
        } else {
            ring.broadcast(&mut [1.0; 8], 1, soon())
                .and_then(|()| ring.all_reduce_sum(&mut [1.0; 8], soon()))
        }
    });
    assert!(
        matches!(results[0], Err(RingError::Protocol { rank: 1, .. })),
        "rank 0 got {:?}",
        results[0]
    );
    assert!(results[1].is_err(), "rank 1 continued alone");
}

#[test]
fn ranks_with_different_roots_fail() {
    let results = on_ring(2, |ring| {
        let root = ring.rank();
        ring.broadcast(&mut [1.0; 8], root, soon())
    });
    for (rank, result) in results.iter().enumerate() {
        let other = 1 - rank;
        assert!(
            matches!(result, Err(RingError::Protocol { rank, .. }) if *rank == other),
            "rank {rank} got {result:?}"
        );
    }
}

#[test]
fn a_ring_that_another_thread_ends_fails_immediately_on_every_rank() {
    let rank_1_is_done = std::sync::Barrier::new(3);
    let began = Instant::now();
    let errors = on_ring(3, |ring| {
        if ring.rank() != 1 {
            rank_1_is_done.wait();
            return ring.barrier(soon()).unwrap_err();
        }
        let breaker = ring.breaker().unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            breaker.end();
        });
        // The other ranks wait for this rank.
        let error = ring.barrier(soon()).unwrap_err();
        rank_1_is_done.wait();
        ending.join().unwrap();
        error
    });
    assert!(errors.iter().all(RingError::is_transient), "{errors:?}");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "no deadline was waited for"
    );
}

#[test]
fn a_world_of_one_needs_no_socket() {
    let mut solo = SoloRing;
    let mut grads = vec![1.0, 2.0];
    solo.all_reduce_sum(&mut grads, soon()).unwrap();
    solo.broadcast(&mut grads, 0, soon()).unwrap();
    assert_eq!(grads, [1.0, 2.0]);
    assert_eq!(
        solo.all_gather(&grads, soon()).unwrap(),
        vec![grads.clone()]
    );
    assert!(matches!(
        solo.broadcast(&mut grads, 1, soon()),
        Err(RingError::NoSuchRank {
            rank: 1,
            world_size: 1
        })
    ));
}
