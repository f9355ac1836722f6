//! The scheduler and its task machine in a world without processes: simulated workers, clock, network,
//! object store and database, all on tokio's paused time. One seed gives one history.
//!
//! ```text
//!  workers ──► network ──► Handle (the real one) ──► database (in memory, fails, stalls)
//!     │                                       └────► object store (in memory, fails, stalls)
//!     └──────── commits ────────────────────────────►
//!  chaos: freezes, crashes, restarts, outages, cuts, broken and dying workers, cancel, retry, resubmit
//! ```
//!
//! A history ends with calm, and then the run must be done with one commit for each task. `checks.rs`
//! says what else must hold at every moment.
//!
//! ```text
//! cargo test -p capstan-coordinator --test simulation                                    # 500 seeds
//! CAPSTAN_SEEDS=500..10000 cargo test --release -p capstan-coordinator --test simulation # more
//! CAPSTAN_SEEDS=17 CAPSTAN_TRACE=1 cargo test ... -- --nocapture                         # one history
//! ```
#![allow(clippy::unwrap_used, reason = "a test")]

mod chaos;
mod checks;
mod database;
mod random;
mod store;
mod worker;
mod world;

use std::ops::Range;
use std::time::Duration;

use world::{History, World};

/// Longest history after chaos has ended, in simulated time.
const CALM: Duration = Duration::from_secs(2 * 3_600);

fn seeds() -> Range<u64> {
    let text = std::env::var("CAPSTAN_SEEDS").unwrap_or_else(|_| "0..500".to_owned());
    let number = |text: &str| {
        text.trim()
            .parse()
            .expect("CAPSTAN_SEEDS is FROM..TO or one seed")
    };
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

/// Plays one history.
fn play(seed: u64) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(seed);
        let ended = tokio::time::timeout(CALM * 2, chaos::history(&world)).await;
        if ended.is_err() {
            world.violation("the history does not end".to_owned());
        }
        world.history()
    })
}

#[test]
fn every_history_ends_well() {
    let seeds = seeds();
    let mut failed = Vec::new();
    let (mut events, mut hours) = (0, 0.0);
    for seed in seeds.clone() {
        let history = play(seed);
        events += history.log.len();
        hours += history.lasted.as_secs_f64() / 3_600.0;
        if std::env::var_os("CAPSTAN_TRACE").is_some() {
            history.log.iter().for_each(|line| println!("{line}"));
        }
        if !history.violations.is_empty() {
            println!("seed {seed}: {}", history.violations.join("; "));
            failed.push(seed);
        }
    }
    println!(
        "{} histories, {hours:.0} simulated hours, {events} events",
        seeds.end - seeds.start
    );
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

#[test]
fn one_seed_gives_one_history() {
    for seed in [1, 2, 3] {
        assert_eq!(play(seed).log, play(seed).log);
    }
}
