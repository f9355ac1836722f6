//! Ejection of workers, and preference for what is cached.

use super::*;

/// One more shard that this worker takes and fails.
fn fails(machine: &mut Machine, worker: &str, shard: &str, now: Now) {
    let claim = takes(machine, worker, shard, now).unwrap();
    machine
        .fail(&claim, FailureKind::WorkerFault, "disk full", now)
        .unwrap();
}

/// One more shard that this worker takes and commits.
fn commits(machine: &mut Machine, worker: &str, shard: &str, now: Now) {
    let claim = takes(machine, worker, shard, now).unwrap();
    assert!(machine.committed(&claim.key, claim.lease_epoch, now));
}

fn takes(machine: &mut Machine, worker: &str, shard: &str, now: Now) -> Option<Claim> {
    // In a stage of its own, so that nothing else is older.
    machine.add(key(shard), spec(Role::Crawl, 1));
    let claim = lease(machine, worker, now)?;
    assert_eq!(claim.key.shard.as_str(), shard);
    Some(claim)
}

/// Three shards failed by `bad`, each committed by `good` once its backoff is over.
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

/// A machine that `good` has done one shard of.
fn with_good() -> Machine {
    let mut machine = Machine::new(POLICY, 1);
    commits(&mut machine, "good", "first", seconds(0));
    machine
}

#[test]
fn a_worker_that_fails_what_others_do_is_ejected_for_a_growing_time() {
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
    // It failed at 11 for the third time; `good` is alive all the while.
    let busy = Offer {
        device: "cpu-avx512".into(),
        slots: 0,
        ..offer("good", Role::Crawl)
    };
    machine.assign(&[busy], seconds(40));
    let claim = lease(&mut machine, "bad", seconds(41)).unwrap();
    machine.committed(&claim.key, claim.lease_epoch, seconds(41));
    assert_eq!(machine.ejected(seconds(41)), 0);

    // It goes on as before, and is ejected for twice as long.
    commits(&mut machine, "good", "y", seconds(42));
    three_failures(&mut machine, 43);
    let notices = machine.take_notices();
    let [Notice::Ejected(ejected)] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!(ejected.period, POLICY.ejection * 2);
}

#[test]
fn the_last_worker_of_a_role_is_never_left_out() {
    let mut machine = with_good();
    three_failures(&mut machine, 1);
    machine.add(key("x"), spec(Role::Crawl, 1));
    assert!(lease(&mut machine, "bad", seconds(20)).is_none());
    // The last message of `good` came at 13: it is gone.
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
fn one_bad_shard_or_few_failures_among_many_eject_no_worker() {
    let mut machine = with_good();
    // The same shard, three times.
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
        "one shard says nothing of a worker"
    );
    let mut machine = with_good();
    for ordinal in 0..4 {
        commits(&mut machine, "bad", &format!("good-{ordinal}"), seconds(1));
    }
    three_failures(&mut machine, 2);
    assert!(
        machine.take_notices().is_empty(),
        "it does more than it fails"
    );
}

/// `good` is alive, and takes nothing.
fn commits_nothing(machine: &mut Machine, now: u64) {
    let busy = Offer {
        device: "cpu-avx512".into(),
        slots: 0,
        ..offer("good", Role::Crawl)
    };
    machine.assign(&[busy], seconds(now));
}

#[test]
fn what_one_silence_costs_counts_once() {
    let mut machine = with_good();
    for ordinal in 0..4 {
        takes(&mut machine, "bad", &ordinal.to_string(), seconds(1)).unwrap();
    }
    assert_eq!(machine.tick(seconds(32)).len(), 4, "it was killed");
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
fn a_task_is_left_to_the_worker_that_has_it_cached_but_not_for_long() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    // `has` is busy with something else.
    machine.add(key("else"), spec(Role::Crawl, 1));
    let busy = machine.assign(&[cached("has", &[base])], seconds(0));
    assert_eq!(shards(&busy), ["else"]);
    of_base(&mut machine, "0", base);
    let other = [cached("other", &[])];
    assert!(
        machine.assign(&other, seconds(0)).is_empty(),
        "left for a while"
    );
    assert!(machine.assign(&other, seconds(1)).is_empty());
    assert_eq!(
        shards(&machine.assign(&other, seconds(2))),
        ["0"],
        "2 s of 30"
    );
}

#[test]
fn the_worker_that_has_it_cached_gets_it() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    machine.assign(&[cached("has", &[base])], seconds(0));
    of_base(&mut machine, "0", base);
    let both = [cached("other", &[]), cached("has", &[base])];
    let grants = machine.assign(&both, seconds(1));
    assert_eq!(grants[0].offer, 1, "although the other one asked first");
}

#[test]
fn a_cache_of_a_worker_that_is_gone_delays_nothing() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    machine.assign(&[cached("gone", &[base])], seconds(0));
    of_base(&mut machine, "0", base);
    let grants = machine.assign(&[cached("other", &[])], seconds(31));
    assert_eq!(shards(&grants), ["0"]);
}

#[test]
fn an_older_task_is_overtaken_only_for_a_while() {
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
