//! Times one all-reduce between threads of this process over loopback.
//!
//! `cargo run --release -p capstan-collective --example all_reduce -- [VALUES] [RANKS] [ROUNDS]`
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use capstan_collective::{Collective, Ring, RingEpoch, RingError, RingPlan, Secret};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<usize>());
    let mut number = |default| numbers.next().unwrap_or(Ok(default));
    let (values, world_size, rounds) = (number(400_000)?, number(2)?, number(500)?);
    let listeners: Vec<TcpListener> = (0..world_size)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let peers: Vec<SocketAddr> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    let times = std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let plan = RingPlan {
                    run: "example".to_owned(),
                    ring_epoch: RingEpoch::default(),
                    rank,
                    world_size,
                    peers: peers.clone(),
                    secret: Secret([0; 32]),
                };
                scope.spawn(move || time(&plan, listener, values, rounds))
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("no rank panics"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut times = times.into_iter().next().unwrap_or_default();
    times.sort();
    let median = times[times.len() / 2];
    let bytes = 2.0 * (world_size as f64 - 1.0) / world_size as f64 * 4.0 * values as f64;
    println!(
        "{world_size} ranks, {values} values: median {:.3} ms, 95th {:.3} ms, bus {:.2} GB/s",
        median.as_secs_f64() * 1e3,
        times[times.len() * 95 / 100].as_secs_f64() * 1e3,
        bytes / median.as_secs_f64() / 1e9,
    );
    Ok(())
}

fn time(
    plan: &RingPlan,
    listener: &TcpListener,
    values: usize,
    rounds: usize,
) -> Result<Vec<Duration>, RingError> {
    let minute = || Instant::now() + Duration::from_secs(60);
    let mut ring = Ring::connect(plan, listener, 0, minute())?;
    let mut grads = vec![1.0; values];
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        grads.fill(1.0);
        ring.barrier(minute())?;
        let start = Instant::now();
        ring.all_reduce_sum(&mut grads, minute())?;
        times.push(start.elapsed());
    }
    Ok(times)
}
