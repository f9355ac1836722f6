//! Costs with a million ready tasks and with a thousand runs: memory per task, and time per grant.
//!
//! ```text
//! cargo test --release -p capstan-coordinator --lib -- --ignored --nocapture a_million_ready_tasks
//! cargo test --release -p capstan-coordinator --lib -- --ignored --nocapture a_thousand_runs
//! ```
//! Memory is measured for the process, so run one test at a time.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::Instant;

use capstan_plan::id::ShardId;

use super::*;

const TASKS: u64 = 1_000_000;
const WORKERS: u64 = 256;
/// Number of base files in the cache of each worker.
const CACHED: u64 = 1_000;
const GRANTS: u64 = 20_000;

fn base(task: u64) -> Digest {
    Digest::of(&task.to_le_bytes())
}

/// A worker that has cached every [`WORKERS`]th base file, starting with its own.
fn caching(worker: u64) -> Offer {
    let cached = (0..CACHED).map(|n| base(worker + n * WORKERS));
    Offer {
        cached: Arc::new(cached.collect()),
        ..offer(&format!("worker-{worker}"), Role::Crawl)
    }
}

/// Resident bytes of this process: the second field of proc_pid_statm(5), in pages.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split_whitespace().nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4_096
}

fn million() -> Machine {
    let mut machine = Machine::new(POLICY, 1);
    for task in 0..TASKS {
        let key = Key {
            run: "scheduling-0123456789".into(),
            stage: "stage-0".into(),
            shard: ShardId::ordinal(task as usize),
        };
        let spec = Spec {
            base: Some(base(task)),
            device: Some("cpu-avx512".into()),
            ..spec(Role::Crawl, 1)
        };
        machine.add(key, spec);
        // Added in chunks, as drivers do.
        if task % 1_000 == 0 {
            machine.take_changes();
        }
    }
    machine.take_changes();
    machine
}

#[test]
#[ignore = "measures a million tasks"]
fn a_million_ready_tasks() {
    let before = resident_bytes();
    let began = Instant::now();
    let mut machine = million();
    let added = began.elapsed();
    let bytes = resident_bytes() - before;
    let offers: Vec<Offer> = (0..WORKERS).map(caching).collect();
    machine.assign(&offers, seconds(0));
    let began = Instant::now();
    for grant in 0..GRANTS {
        let now = seconds(0) + Duration::from_millis(grant);
        let offer = &offers[(grant % WORKERS) as usize];
        let grants = machine.assign(std::slice::from_ref(offer), now);
        assert!(machine.committed(&grants[0].key, grants[0].lease_epoch, now));
    }
    let grant = began.elapsed() / GRANTS as u32;
    let (key, task) = (size_of::<Key>(), size_of::<Task>());
    println!(
        "size_of Key {key}, Task {task}, Entry {}",
        size_of::<Entry>()
    );
    println!("memory for a ready task   {} bytes", bytes / TASKS);
    println!("added                     {:?} each", added / TASKS as u32);
    println!("granted and committed     {grant:?} each");
}

#[test]
#[ignore = "measures many runs"]
fn a_thousand_runs_with_ready_tasks() {
    const RUNS: u32 = 1_000;
    let mut machine = Machine::new(POLICY, 1);
    for task in 0..100 {
        for run in 0..RUNS {
            let key = Key {
                run: format!("run-{run}").into(),
                ..key(&task.to_string())
            };
            machine.add(key, spec(Role::Crawl, 1));
        }
    }
    machine.take_changes();
    let offer = offer("w", Role::Crawl);
    let began = Instant::now();
    for _ in 0..RUNS {
        assert_eq!(
            machine
                .assign(std::slice::from_ref(&offer), seconds(0))
                .len(),
            1
        );
    }
    println!(
        "granted among {RUNS} runs  {:?} each",
        began.elapsed() / RUNS
    );
}
