//! Ejection of workers, and preference for cached base files.

use super::*;

/// Lets this worker lease one more shard and fail it.
fn fails(machine: &mut Machine, worker: &str, shard: &str, now: Now) {
    let claim = takes(machine, worker, shard, now).unwrap();
    machine
        .fail(&claim, FailureKind::WorkerFault, "disk full", now)
        .unwrap();
}

/// Lets this worker lease one more shard and commit it.
fn commits(machine: &mut Machine, worker: &str, shard: &str, now: Now) {
    let claim = takes(machine, worker, shard, now).unwrap();
    assert!(machine.committed(&claim.key, claim.lease_epoch, now));
}

fn takes(machine: &mut Machine, worker: &str, shard: &str, now: Now) -> Option<Claim> {
    // The task is in a stage of its own, so that no other task is older.
    machine.add(key(shard), spec(Role::Crawl, 1));
    let claim = lease(machine, worker, now)?;
    assert_eq!(claim.key.shard.as_str(), shard);
    Some(claim)
}

/// Lets `bad` fail three shards, and `good` commit each of them once its backoff is over.
fn three_failures(machine: &mut Machine, from: u64) {
    for ordinal in 0..3 {
        let now = seconds(from + ordinal * 5);
        let shard = format!("{from}-{ordinal}");
        fails(machine, "bad", &shard, now);
        let later = now + Duration::from_secs(2);
        machine.tick(later);
        let claim = lease(machine, "good", later).unwrap();
        assert!(machine.committed(&claim.key, claim.lease_epoch, later));
    }
}

/// A machine in which `good` has committed one shard.
fn with_good() -> Machine {
    let mut machine = Machine::new(POLICY, 1);
    commits(&mut machine, "good", "first", seconds(0));
    machine
}

#[test]
fn a_worker_that_fails_shards_of_others_is_ejected_for_a_growing_period() {
    let mut machine = with_good();
    three_failures(&mut machine, 1);
    let notices = machine.take_notices();
    let [Notice::Ejected(ejected)] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!((ejected.worker.as_str(), ejected.shards), ("bad", 3));
    assert_eq!(ejected.period, POLICY.ejection);
    assert_eq!(machine.ejected(seconds(20)), 1);
    machine.add(key("x"), spec(Role::Crawl, 1));
    assert!(lease(&mut machine, "bad", seconds(20)).is_none());
    // Its third failure is at 11 s. `good` is alive throughout.
    let busy = Offer {
        device: "cpu-avx512".into(),
        slots: 0,
        ..offer("good", Role::Crawl)
    };
    machine.assign(&[busy], seconds(40));
    let claim = lease(&mut machine, "bad", seconds(41)).unwrap();
    machine.committed(&claim.key, claim.lease_epoch, seconds(41));
    assert_eq!(machine.ejected(seconds(41)), 0);

    // It fails again as before, and is ejected for twice as long.
    commits(&mut machine, "good", "y", seconds(42));
    three_failures(&mut machine, 43);
    let notices = machine.take_notices();
    let [Notice::Ejected(ejected)] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!(ejected.period, POLICY.ejection * 2);
}

#[test]
fn the_last_worker_of_a_role_is_never_ejected() {
    let mut machine = with_good();
    three_failures(&mut machine, 1);
    machine.add(key("x"), spec(Role::Crawl, 1));
    assert!(lease(&mut machine, "bad", seconds(20)).is_none());
    // The last message of `good` was at 13 s, so it is not alive any more.
    assert!(
        lease(&mut machine, "bad", seconds(44)).is_some(),
        "no other worker is alive"
    );
}

#[test]
fn a_store_that_fails_every_worker_ejects_none() {
    let mut machine = Machine::new(POLICY, 1);
    for ordinal in 0..6 {
        let (now, shard) = (seconds(ordinal * 2), ordinal.to_string());
        let worker = ["bad", "good"][ordinal as usize % 2];
        fails(&mut machine, worker, &shard, now);
    }
    assert!(machine.take_notices().is_empty());
}

#[test]
fn one_bad_shard_or_few_failures_among_many_commits_eject_no_worker() {
    let mut machine = with_good();
    // The worker fails the same shard three times.
    let mut now = 1;
    for _ in 0..3 {
        machine.add(key("same"), spec(Role::Crawl, 1));
        let claim = lease(&mut machine, "bad", seconds(now)).unwrap();
        let kind = FailureKind::Transient;
        machine.fail(&claim, kind, "", seconds(now)).unwrap();
        now += 10;
        machine.tick(seconds(now));
        commits_nothing(&mut machine, now);
    }
    assert!(
        machine.take_notices().is_empty(),
        "one shard proves nothing about a worker"
    );
    let mut machine = with_good();
    for ordinal in 0..4 {
        commits(&mut machine, "bad", &format!("good-{ordinal}"), seconds(1));
    }
    three_failures(&mut machine, 2);
    assert!(
        machine.take_notices().is_empty(),
        "it commits more than it fails"
    );
}

/// Keeps `good` alive without a lease.
fn commits_nothing(machine: &mut Machine, now: u64) {
    let busy = Offer {
        device: "cpu-avx512".into(),
        slots: 0,
        ..offer("good", Role::Crawl)
    };
    machine.assign(&[busy], seconds(now));
}

#[test]
fn leases_that_expire_together_count_as_one_failure() {
    let mut machine = with_good();
    for ordinal in 0..4 {
        takes(&mut machine, "bad", &ordinal.to_string(), seconds(1)).unwrap();
    }
    assert_eq!(machine.tick(seconds(32)).len(), 4, "the worker was killed");
    assert!(machine.take_notices().is_empty());
}

fn cached(worker: &str, bases: &[Digest]) -> Offer {
    Offer {
        cached: Arc::new(bases.iter().copied().collect()),
        ..offer(worker, Role::Crawl)
    }
}

fn of_base(machine: &mut Machine, shard: &str, base: Digest) {
    let spec = Spec {
        base: Some(base),
        ..spec(Role::Crawl, 1)
    };
    machine.add(key(shard), spec);
}

fn shards(grants: &[Grant]) -> Vec<&str> {
    grants.iter().map(|g| g.key.shard.as_str()).collect()
}

#[test]
fn a_task_waits_a_bounded_time_for_the_worker_that_has_it_cached() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    // `has` is executing another task.
    machine.add(key("else"), spec(Role::Crawl, 1));
    let busy = machine.assign(&[cached("has", &[base])], seconds(0));
    assert_eq!(shards(&busy), ["else"]);
    of_base(&mut machine, "0", base);
    let other = [cached("other", &[])];
    assert!(
        machine.assign(&other, seconds(0)).is_empty(),
        "left for the worker with the cached file"
    );
    assert!(machine.assign(&other, seconds(1)).is_empty());
    assert_eq!(
        shards(&machine.assign(&other, seconds(2))),
        ["0"],
        "2 s of 30 s"
    );
}

#[test]
fn the_worker_that_has_the_base_file_cached_gets_the_task() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    machine.assign(&[cached("has", &[base])], seconds(0));
    of_base(&mut machine, "0", base);
    let both = [cached("other", &[]), cached("has", &[base])];
    let grants = machine.assign(&both, seconds(1));
    assert_eq!(grants[0].offer, 1, "the other worker requested first");
}

#[test]
fn the_cache_of_a_dead_worker_delays_nothing() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    machine.assign(&[cached("gone", &[base])], seconds(0));
    of_base(&mut machine, "0", base);
    let grants = machine.assign(&[cached("other", &[])], seconds(31));
    assert_eq!(shards(&grants), ["0"]);
}

#[test]
fn an_older_task_is_passed_over_only_for_a_bounded_time() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("old"), spec(Role::Crawl, 1));
    let bases: Vec<Digest> = (0..9u8).map(|n| Digest::of(&[n])).collect();
    for (ordinal, base) in bases.iter().enumerate() {
        of_base(&mut machine, &ordinal.to_string(), *base);
    }
    let offer = [cached("has", &bases)];
    assert_eq!(shards(&machine.assign(&offer, seconds(0))), ["0"]);
    assert_eq!(shards(&machine.assign(&offer, seconds(1))), ["1"]);
    assert_eq!(shards(&machine.assign(&offer, seconds(2))), ["old"]);
    assert_eq!(shards(&machine.assign(&offer, seconds(2))), ["2"]);
}
