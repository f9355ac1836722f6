//! How runs share slots, and how gangs and tasks of one rank share them.

use std::collections::BTreeMap;

use super::*;

fn of_run(run: &str, shard: &str) -> Key {
    Key {
        run: run.into(),
        ..key(shard)
    }
}

fn trainer(worker: &str) -> Offer {
    offer(worker, Role::Train)
}

/// Runs of these grants, in order.
fn runs(grants: &[Grant]) -> Vec<&str> {
    grants.iter().map(|grant| grant.key.run.as_str()).collect()
}

fn shards(grants: &[Grant]) -> Vec<&str> {
    let shards = grants.iter().map(|grant| grant.key.shard.as_str());
    shards.collect()
}

fn commit(machine: &mut Machine, grant: &Grant, now: Now) {
    assert!(machine.committed(&grant.key, grant.lease_epoch, now));
}

#[test]
fn a_later_run_gets_its_share_of_the_slots() {
    let mut machine = Machine::new(POLICY, 1);
    for shard in 0..100 {
        machine.add(of_run("first", &shard.to_string()), spec(Role::Crawl, 1));
    }
    let four = Offer {
        slots: 4,
        ..offer("w", Role::Crawl)
    };
    let early = machine.assign(std::slice::from_ref(&four), seconds(0));
    assert_eq!(runs(&early), ["first"; 4], "no other run has ready tasks");
    for shard in 0..3 {
        machine.add(of_run("second", &shard.to_string()), spec(Role::Crawl, 1));
    }
    // The second run is served until it has as many slots as the first one.
    let six = Offer {
        slots: 6,
        ..offer("v", Role::Crawl)
    };
    let grants = machine.assign(&[six], seconds(1));
    let expected = ["second", "second", "second", "first", "first", "first"];
    assert_eq!(runs(&grants), expected);
    let of_second: Vec<_> = shards(&grants).into_iter().take(3).collect();
    assert_eq!(of_second, ["0", "1", "2"], "oldest first");
}

#[test]
fn runs_take_turns_on_a_single_slot() {
    let mut machine = Machine::new(POLICY, 1);
    for run in ["first", "second", "third"] {
        for shard in 0..3 {
            machine.add(of_run(run, &shard.to_string()), spec(Role::Crawl, 1));
        }
    }
    let mut served = Vec::new();
    for now in 0..9 {
        let grants = machine.assign(&[offer("w", Role::Crawl)], seconds(now));
        served.push(format!("{}/{}", grants[0].key.run, grants[0].key.shard));
        commit(&mut machine, &grants[0], seconds(now));
    }
    let expected: Vec<String> = (0..3)
        .flat_map(|shard| ["first", "second", "third"].map(|run| format!("{run}/{shard}")))
        .collect();
    assert_eq!(served, expected);
}

#[test]
fn slots_of_one_role_do_not_count_for_another() {
    let mut machine = Machine::new(POLICY, 1);
    for shard in 0..3 {
        machine.add(of_run("first", &shard.to_string()), spec(Role::Train, 1));
    }
    machine.assign(&[trainer("t1"), trainer("t2")], seconds(0));
    machine.add(of_run("first", "a"), spec(Role::Crawl, 1));
    machine.add(of_run("second", "a"), spec(Role::Crawl, 1));
    let grants = machine.assign(&[offer("w", Role::Crawl)], seconds(1));
    // Neither run has a crawling slot. The second one was never served.
    assert_eq!(runs(&grants), ["second"]);
    let grants = machine.assign(&[offer("v", Role::Crawl)], seconds(1));
    assert_eq!(runs(&grants), ["first"]);
}

#[test]
fn a_cache_does_not_change_the_order_of_runs() {
    let mut machine = Machine::new(POLICY, 1);
    let base = Digest::of(b"0");
    let cached = |shard: &str, machine: &mut Machine| {
        let spec = Spec {
            base: Some(base),
            ..spec(Role::Crawl, 1)
        };
        machine.add(of_run("first", shard), spec);
    };
    machine.add(of_run("first", "plain"), spec(Role::Crawl, 1));
    cached("a", &mut machine);
    cached("b", &mut machine);
    machine.add(of_run("second", "plain"), spec(Role::Crawl, 1));
    let two = Offer {
        slots: 2,
        cached: Arc::new([base].into()),
        ..offer("w", Role::Crawl)
    };
    let grants = machine.assign(&[two], seconds(0));
    assert_eq!(runs(&grants), ["first", "second"]);
    assert_eq!(
        shards(&grants),
        ["a", "plain"],
        "within a run, the cache decides"
    );
}

/// Trainers `t1` and `t2` with a task of one rank each, and a ready gang of two.
fn a_gang_that_waits() -> (Machine, BTreeMap<&'static str, Grant>) {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("old-1"), spec(Role::Train, 1));
    machine.add(key("old-2"), spec(Role::Train, 1));
    let grants = machine.assign(&[trainer("t1"), trainer("t2")], seconds(0));
    let held = ["t1", "t2"].into_iter().zip(grants).collect();
    machine.add(of_run("gang", "all"), spec(Role::Train, 2));
    (machine, held)
}

#[test]
fn later_tasks_of_one_rank_do_not_starve_a_gang() {
    let (mut machine, held) = a_gang_that_waits();
    for shard in 0..10 {
        machine.add(of_run("later", &shard.to_string()), spec(Role::Train, 1));
    }
    commit(&mut machine, &held["t1"], seconds(1));
    let grants = machine.assign(&[trainer("t1")], seconds(1));
    assert_eq!(shards(&grants), [""; 0], "t1 is reserved for the gang");
    commit(&mut machine, &held["t2"], seconds(2));
    let grants = machine.assign(&[trainer("t1"), trainer("t2")], seconds(2));
    assert_eq!(runs(&grants), ["gang"; 2]);
    let grants = machine.assign(&[trainer("t3")], seconds(3));
    assert_eq!(
        runs(&grants),
        ["later"],
        "nothing is reserved once the gang is leased"
    );
}

#[test]
fn older_tasks_go_first_until_the_gang_has_waited_long_enough() {
    let mut machine = Machine::new(POLICY, 1);
    for shard in 0..3 {
        machine.add(key(&shard.to_string()), spec(Role::Train, 1));
    }
    machine.add(of_run("gang", "all"), spec(Role::Train, 2));
    let busy = machine.assign(&[trainer("t1")], seconds(0));
    assert_eq!(shards(&busy), ["0"], "too few are alive for the gang");
    // With the second trainer, the gang can be formed.
    let grants = machine.assign(&[trainer("t2")], seconds(1));
    assert_eq!(shards(&grants), ["1"], "an older task goes first");
    commit(&mut machine, &grants[0], seconds(2));
    let waited = seconds(1) + POLICY.gang_wait;
    machine.heartbeat(&claim(&busy[0], "t1"), waited).unwrap();
    let grants = machine.assign(&[trainer("t2")], waited);
    assert_eq!(shards(&grants), [""; 0], "the gang has waited long enough");
    commit(&mut machine, &busy[0], waited);
    let grants = machine.assign(&[trainer("t1"), trainer("t2")], waited);
    assert_eq!(runs(&grants), ["gang"; 2]);
}

#[test]
fn a_gang_that_cannot_be_formed_reserves_no_slot() {
    let (mut machine, held) = a_gang_that_waits();
    machine.add(of_run("later", "0"), spec(Role::Train, 1));
    machine
        .heartbeat(&claim(&held["t2"], "t2"), seconds(20))
        .unwrap();
    // `t1` sends no heartbeats.
    machine.tick(seconds(31));
    let late = machine.assign(&[trainer("t2")], seconds(40));
    assert_eq!(runs(&late), ["later"], "a gang of two needs two trainers");
}

#[test]
fn of_two_gangs_the_older_one_goes_first_and_neither_starves() {
    let (mut machine, held) = a_gang_that_waits();
    machine.add(of_run("younger", "all"), spec(Role::Train, 2));
    machine.add(of_run("three", "all"), spec(Role::Train, 3));
    commit(&mut machine, &held["t1"], seconds(1));
    assert!(machine.assign(&[trainer("t1")], seconds(1)).is_empty());
    commit(&mut machine, &held["t2"], seconds(2));
    let both = [trainer("t1"), trainer("t2")];
    let first = machine.assign(&both, seconds(2));
    assert_eq!(runs(&first), ["gang"; 2]);
    commit(&mut machine, &first[0], seconds(3));
    let second = machine.assign(&both, seconds(3));
    assert_eq!(runs(&second), ["younger"; 2]);
    commit(&mut machine, &second[0], seconds(4));
    assert!(machine.assign(&both, seconds(4)).is_empty());
    let all = [trainer("t1"), trainer("t2"), trainer("t3")];
    assert_eq!(runs(&machine.assign(&all, seconds(5))), ["three"; 3]);
}

#[test]
fn a_larger_gang_keeps_its_reserved_slots_against_a_smaller_younger_one() {
    let mut machine = Machine::new(POLICY, 1);
    let all = ["t1", "t2", "t3"].map(trainer);
    machine.add(key("old"), spec(Role::Train, 1));
    let busy = machine.assign(&all, seconds(0));
    assert_eq!(busy[0].offer, 0);
    machine.add(of_run("three", "all"), spec(Role::Train, 3));
    machine.add(of_run("two", "all"), spec(Role::Train, 2));
    let free = &all[1..];
    assert!(machine.assign(free, seconds(1)).is_empty());
    // Without `t1`, the gang of three cannot be formed, and the gang of two gets the slots.
    let grants = machine.assign(free, seconds(31));
    assert_eq!(runs(&grants), ["two"; 2]);
}

#[test]
fn a_cached_task_does_not_take_a_reserved_slot() {
    let (mut machine, held) = a_gang_that_waits();
    let base = Digest::of(b"0");
    let cached = Spec {
        base: Some(base),
        ..spec(Role::Train, 1)
    };
    machine.add(of_run("later", "0"), cached);
    commit(&mut machine, &held["t1"], seconds(1));
    let two = Offer {
        slots: 2,
        cached: Arc::new([base].into()),
        ..trainer("t1")
    };
    let one = Offer {
        slots: 1,
        ..two.clone()
    };
    assert!(machine.assign(&[one], seconds(1)).is_empty(), "reserved");
    let grants = machine.assign(&[two], seconds(2));
    assert_eq!(runs(&grants), ["later"], "one of two slots is reserved");
}
