//! Single cases. [`random`] applies random events and checks invariants after each.

mod random;
mod share;
mod size;
mod twins;
mod workers;

use capstan_plan::FailureKind;
use capstan_plan::id::Digest;
use capstan_plan::task::Role;

use super::*;

const POLICY: Policy = Policy::new(
    Duration::from_secs(30),
    4,
    Duration::from_secs(1),
    Duration::from_secs(60),
);

fn seconds(seconds: u64) -> Now {
    Duration::from_secs(1_000 + seconds)
}

fn key(shard: &str) -> Key {
    Key {
        run: "r".into(),
        stage: "s".into(),
        shard: shard.into(),
    }
}

fn spec(role: Role, world_size: usize) -> Spec {
    Spec {
        role,
        world_size,
        base: None,
        device: None,
        may_twin: false,
    }
}

fn offer(worker: &str, role: Role) -> Offer {
    let cached = Arc::default();
    Offer {
        worker: worker.into(),
        roles: [role].into(),
        device: "cpu-avx512".into(),
        slots: 1,
        cached,
    }
}

fn machine(shards: &[&str]) -> Machine {
    let mut machine = Machine::new(POLICY, 1);
    for shard in shards {
        machine.add(key(shard), spec(Role::Crawl, 1));
    }
    machine
}

fn claim(grant: &Grant, worker: &str) -> Claim {
    Claim {
        key: (*grant.key).clone(),
        lease_epoch: grant.lease_epoch,
        rank: grant.rank,
        worker: worker.into(),
    }
}

/// Leases one task to one worker.
fn lease(machine: &mut Machine, worker: &str, now: Now) -> Option<Claim> {
    let grants = machine.assign(&[offer(worker, Role::Crawl)], now);
    grants.first().map(|grant| claim(grant, worker))
}

fn state(machine: &Machine, shard: &str) -> State {
    machine.task(&key(shard)).unwrap().state.clone()
}

#[test]
fn the_oldest_offer_gets_the_oldest_task() {
    let mut machine = machine(&["b", "a"]);
    let offers = [
        offer("w1", Role::Curate),
        offer("w2", Role::Crawl),
        offer("w3", Role::Crawl),
    ];
    let grants = machine.assign(&offers, seconds(0));
    let served: Vec<_> = grants
        .iter()
        .map(|g| (g.offer, g.key.shard.as_str()))
        .collect();
    assert_eq!(served, [(1, "b"), (2, "a")]);
    assert_ne!(grants[0].lease_epoch, grants[1].lease_epoch);
    assert!(
        machine.assign(&offers, seconds(0)).is_empty(),
        "a task was leased twice"
    );
}

#[test]
fn a_worker_gets_the_shard_that_it_has_cached() {
    let mut machine = Machine::new(POLICY, 1);
    let bases = [Digest::of(b"0"), Digest::of(b"1")];
    for (shard, base) in ["0", "1"].iter().zip(bases) {
        machine.add(
            key(shard),
            Spec {
                base: Some(base),
                ..spec(Role::Crawl, 1)
            },
        );
    }
    let offer = Offer {
        cached: Arc::new([bases[1]].into()),
        ..offer("w", Role::Crawl)
    };
    assert_eq!(
        machine.assign(&[offer], seconds(0))[0].key.shard.as_str(),
        "1"
    );
}

#[test]
fn heartbeats_renew_a_lease_and_it_expires_without_them() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w1", seconds(0)).unwrap();
    for now in [20, 40, 60] {
        assert!(machine.tick(seconds(now)).is_empty());
        machine.heartbeat(&claim, seconds(now)).unwrap();
    }
    assert_eq!(machine.tick(seconds(91)), [key("0")]);
    assert_eq!(machine.heartbeat(&claim, seconds(92)), Err(Stale::NotHeld));
    assert_eq!(
        machine.fail(&claim, FailureKind::Fatal, "", seconds(92)),
        Err(Stale::NotHeld)
    );
    machine.tick(seconds(95));
    let second = lease(&mut machine, "w2", seconds(95)).unwrap();
    assert!(second.lease_epoch > claim.lease_epoch);
}

#[test]
fn retries_back_off_and_double() {
    let mut machine = machine(&["0"]);
    let mut now = 0;
    for wait in [1, 2, 4] {
        let claim = lease(&mut machine, "w", seconds(now)).unwrap();
        machine
            .fail(&claim, FailureKind::Transient, "503", seconds(now))
            .unwrap();
        assert_eq!(
            state(&machine, "0"),
            State::Blocked {
                until: seconds(now + wait)
            }
        );
        machine.tick(seconds(now + wait - 1));
        assert!(lease(&mut machine, "w", seconds(now + wait - 1)).is_none());
        now += wait;
        machine.tick(seconds(now));
    }
    let claim = lease(&mut machine, "w", seconds(now)).unwrap();
    machine
        .fail(&claim, FailureKind::Transient, "503", seconds(now))
        .unwrap();
    assert_eq!(
        state(&machine, "0"),
        State::Quarantined,
        "four attempts, one worker alive"
    );
}

#[test]
fn the_last_attempt_is_made_on_a_second_worker_if_two_are_alive() {
    let mut machine = machine(&["0"]);
    let mut now = 0;
    for _ in 0..3 {
        let claim = lease(&mut machine, "w1", seconds(now)).unwrap();
        machine
            .fail(&claim, FailureKind::Transient, "x", seconds(now))
            .unwrap();
        now += 10;
        machine.tick(seconds(now));
    }
    machine.add(key("1"), spec(Role::Crawl, 1));
    let other = lease(&mut machine, "w2", seconds(now)).unwrap();
    assert_eq!(other.key.shard.as_str(), "0");
    machine
        .fail(&other, FailureKind::Transient, "x", seconds(now))
        .unwrap();
    assert_eq!(
        state(&machine, "0"),
        State::Quarantined,
        "four attempts on two workers"
    );
}

#[test]
fn the_last_attempt_waits_for_another_live_worker() {
    let mut machine = machine(&["0"]);
    machine.assign(&[offer("w2", Role::Curate)], seconds(0));
    let mut now = 0;
    for _ in 0..3 {
        let claim = lease(&mut machine, "w1", seconds(now)).unwrap();
        machine
            .fail(&claim, FailureKind::Transient, "x", seconds(now))
            .unwrap();
        now += 10;
        machine.tick(seconds(now));
    }
    // Only live workers of the same role count.
    let busy = Offer {
        device: "cpu-avx512".into(),
        slots: 0,
        ..offer("w3", Role::Crawl)
    };
    machine.assign(&[busy], seconds(now));
    assert!(lease(&mut machine, "w1", seconds(now)).is_none());
    assert!(
        lease(&mut machine, "w1", seconds(now + 40)).is_some(),
        "w3 is no longer alive"
    );
}

#[test]
fn a_worker_at_fault_does_not_get_the_task_again_while_another_is_alive() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w1", seconds(0)).unwrap();
    machine
        .fail(&claim, FailureKind::WorkerFault, "disk full", seconds(0))
        .unwrap();
    machine.tick(seconds(5));
    let offers = [offer("w1", Role::Crawl), offer("w2", Role::Crawl)];
    let grants = machine.assign(&offers, seconds(5));
    assert_eq!(
        grants.iter().map(|grant| grant.offer).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn bad_input_and_poison_are_given_up_immediately() {
    for kind in [
        FailureKind::BadInput,
        FailureKind::PoisonShard,
        FailureKind::Fatal,
    ] {
        let mut machine = machine(&["0"]);
        let claim = lease(&mut machine, "w", seconds(0)).unwrap();
        machine
            .fail(&claim, kind, "no such column", seconds(0))
            .unwrap();
        assert_eq!(state(&machine, "0"), State::Quarantined);
        let last = machine.take_changes().pop().unwrap();
        assert_eq!(last.message, "no such column");
        assert_eq!(last.task.last_worker, Some("w".into()));
    }
}

#[test]
fn a_gang_is_leased_together_or_not_at_all() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let one = [offer("t1", Role::Train)];
    assert!(machine.assign(&one, seconds(0)).is_empty());
    let twice = [offer("t1", Role::Train), offer("t1", Role::Train)];
    assert!(
        machine.assign(&twice, seconds(0)).is_empty(),
        "a gang needs two trainers"
    );
    let both = [
        offer("t2", Role::Train),
        offer("w", Role::Crawl),
        offer("t1", Role::Train),
    ];
    let grants = machine.assign(&both, seconds(0));
    let ranks: Vec<_> = grants
        .iter()
        .map(|g| (g.offer, g.rank, g.world_size))
        .collect();
    assert_eq!(ranks, [(2, 0, 2), (0, 1, 2)], "ranks by name");
    assert_eq!(grants[0].lease_epoch, grants[1].lease_epoch);
}

#[test]
fn one_lost_rank_fails_the_attempt_of_all() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let both = [offer("t1", Role::Train), offer("t2", Role::Train)];
    let grants = machine.assign(&both, seconds(0));
    let claims = [claim(&grants[0], "t1"), claim(&grants[1], "t2")];
    machine.heartbeat(&claims[0], seconds(25)).unwrap();
    assert_eq!(machine.tick(seconds(31)), [key("all")]);
    assert_eq!(
        machine.heartbeat(&claims[0], seconds(32)),
        Err(Stale::NotHeld)
    );
    machine.tick(seconds(40));
    assert_eq!(machine.assign(&both, seconds(40))[0].attempt_number, 2);
}

#[test]
fn a_broken_rank_is_not_leased_while_enough_others_are_alive() {
    let trainers: Vec<_> = ["t1", "t2", "t3"]
        .map(|name| offer(name, Role::Train))
        .into();
    let workers = |grants: &[Grant], offers: &[Offer]| -> Vec<String> {
        let of = |grant: &Grant| offers[grant.offer].worker.to_string();
        grants.iter().map(of).collect()
    };
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let grants = machine.assign(&trainers, seconds(0));
    assert_eq!(workers(&grants, &trainers), ["t1", "t2"]);
    // The peer detects a broken ring and reports first. The fault is recorded nevertheless.
    let (peer, broken) = (claim(&grants[0], "t1"), claim(&grants[1], "t2"));
    machine
        .fail(&peer, FailureKind::Transient, "the ring broke", seconds(1))
        .unwrap();
    let late = machine.fail(&broken, FailureKind::WorkerFault, "no device", seconds(1));
    assert_eq!(late, Err(Stale::NotHeld));
    machine.tick(seconds(10));
    let without = machine.assign(&trainers[..2], seconds(10));
    assert!(without.is_empty(), "the gang waits for t3, which is alive");
    let grants = machine.assign(&trainers, seconds(11));
    assert_eq!(workers(&grants, &trainers), ["t1", "t3"]);

    // Without a third trainer, the broken one is leased.
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let grants = machine.assign(&trainers[..2], seconds(0));
    let broken = claim(&grants[1], "t2");
    machine
        .fail(&broken, FailureKind::WorkerFault, "no device", seconds(1))
        .unwrap();
    machine.tick(seconds(10));
    let again = machine.assign(&trainers[..2], seconds(10));
    assert_eq!(workers(&again, &trainers), ["t1", "t2"]);
}

#[test]
fn postponing_extends_leases_and_the_lives_of_workers() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("a"), spec(Role::Crawl, 1));
    let held = lease(&mut machine, "w", seconds(0)).unwrap();
    machine.postpone(Duration::from_secs(100));
    assert!(machine.tick(seconds(129)).is_empty());
    assert_eq!(machine.live_workers(Role::Crawl, None, seconds(129)), 1);
    assert_eq!(machine.tick(seconds(131)), [held.key]);
    assert_eq!(machine.live_workers(Role::Crawl, None, seconds(131)), 0);
}

#[test]
fn a_finished_rank_needs_no_heartbeats() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let both = [offer("t1", Role::Train), offer("t2", Role::Train)];
    let grants = machine.assign(&both, seconds(0));
    machine.rank_finished(&claim(&grants[1], "t2")).unwrap();
    machine
        .heartbeat(&claim(&grants[0], "t1"), seconds(29))
        .unwrap();
    assert!(machine.tick(seconds(50)).is_empty());
    assert!(machine.committed(&key("all"), grants[0].lease_epoch, seconds(50)));
}

#[test]
fn a_rank_cannot_renew_the_lease_of_another() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let both = [offer("t1", Role::Train), offer("t2", Role::Train)];
    let grants = machine.assign(&both, seconds(0));
    let forged = Claim {
        worker: "t2".into(),
        ..claim(&grants[0], "t1")
    };
    assert_eq!(machine.heartbeat(&forged, seconds(1)), Err(Stale::NotHeld));
    let beyond = Claim {
        rank: 2,
        ..claim(&grants[0], "t1")
    };
    assert_eq!(machine.heartbeat(&beyond, seconds(1)), Err(Stale::NotHeld));
}

#[test]
fn a_commit_counts_although_another_worker_holds_the_lease() {
    let mut machine = machine(&["0"]);
    let zombie = lease(&mut machine, "w1", seconds(0)).unwrap();
    machine.tick(seconds(31));
    machine.tick(seconds(40));
    let second = lease(&mut machine, "w2", seconds(40)).unwrap();
    assert!(machine.committed(&key("0"), zombie.lease_epoch, seconds(41)));
    assert_eq!(machine.heartbeat(&second, seconds(41)), Err(Stale::NotHeld));
    assert_eq!(machine.task(&key("0")), None, "committed tasks are removed");
    assert!(!machine.committed(&key("0"), zombie.lease_epoch, seconds(41)));
}

#[test]
fn a_task_that_was_given_up_stays_given_up() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w", seconds(0)).unwrap();
    machine
        .fail(&claim, FailureKind::PoisonShard, "", seconds(0))
        .unwrap();
    assert!(
        !machine.committed(&key("0"), claim.lease_epoch, seconds(0)),
        "later stages may have continued without it"
    );
    assert_eq!(state(&machine, "0"), State::Quarantined);
}

#[test]
fn heartbeats_of_a_cancelled_run_report_it() {
    let mut machine = machine(&["0", "1"]);
    let claim = lease(&mut machine, "w", seconds(0)).unwrap();
    machine.cancel(&"r".into());
    assert_eq!(machine.heartbeat(&claim, seconds(1)), Err(Stale::Cancelled));
    assert_eq!(state(&machine, "1"), State::Cancelled);
    assert!(lease(&mut machine, "w", seconds(1)).is_none());
    machine.forget(&"r".into());
    assert_eq!(machine.heartbeat(&claim, seconds(1)), Err(Stale::NotHeld));
}

#[test]
fn an_undelivered_lease_does_not_count_as_an_attempt() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w", seconds(0)).unwrap();
    machine.undelivered(&key("0"), claim.lease_epoch);
    assert_eq!(state(&machine, "0"), State::Ready);
    assert_eq!(machine.task(&key("0")).unwrap().attempts, 0);
    let again = lease(&mut machine, "w", seconds(0)).unwrap();
    machine.undelivered(&key("0"), claim.lease_epoch);
    machine.heartbeat(&again, seconds(1)).unwrap();
}

#[test]
fn a_released_task_is_ready_immediately_and_does_not_count() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w1", seconds(0)).unwrap();
    machine.release(&claim).unwrap();
    assert_eq!(machine.release(&claim), Err(Stale::NotHeld), "only once");
    let again = lease(&mut machine, "w2", seconds(0)).unwrap();
    assert_eq!(machine.task(&key("0")).unwrap().attempts, 1);
    assert!(again.lease_epoch > claim.lease_epoch);
}

#[test]
fn one_rank_releases_the_lease_of_its_gang() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let both = [offer("t1", Role::Train), offer("t2", Role::Train)];
    let grants = machine.assign(&both, seconds(0));
    machine.release(&claim(&grants[1], "t2")).unwrap();
    assert_eq!(state(&machine, "all"), State::Ready);
    assert_eq!(
        machine.heartbeat(&claim(&grants[0], "t1"), seconds(1)),
        Err(Stale::NotHeld)
    );
    assert_eq!(machine.assign(&both, seconds(1))[0].attempt_number, 1);
}

#[test]
fn a_task_that_was_given_up_can_be_retried_with_no_attempts() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w", seconds(0)).unwrap();
    assert!(!machine.retry(&key("0")), "it was not given up");
    machine
        .fail(&claim, FailureKind::BadInput, "no such column", seconds(0))
        .unwrap();
    assert!(machine.retry(&key("0")));
    let task = machine.task(&key("0")).unwrap();
    assert_eq!((task.attempts, task.failed_on.len()), (0, 0));
    assert!(lease(&mut machine, "w", seconds(0)).is_some());
}

#[test]
fn a_finished_step_is_forgotten() {
    let mut machine = machine(&["0", "1"]);
    let first = lease(&mut machine, "w", seconds(0)).unwrap();
    machine.forget_step(&"r".into(), &"s".into());
    assert_eq!(
        machine.heartbeat(&first, seconds(1)),
        Err(Stale::NotHeld),
        "forgotten"
    );
    assert!(lease(&mut machine, "w", seconds(1)).is_none());
    assert_eq!(machine.tick(seconds(40)), [], "nothing expires");
}

#[test]
fn a_restored_lease_is_valid_for_one_period_and_keeps_its_epoch() {
    let mut before = machine(&["0"]);
    let claim = lease(&mut before, "w", seconds(0)).unwrap();
    let task = before.task(&key("0")).unwrap().clone();
    let mut after = Machine::new(POLICY, 2);
    after.restore(key("0"), task, seconds(500));
    assert!(after.tick(seconds(529)).is_empty());
    after.heartbeat(&claim, seconds(529)).unwrap();
    assert_eq!(after.tick(seconds(560)), [key("0")]);
    after.tick(seconds(570));
    let second = lease(&mut after, "w", seconds(570)).unwrap();
    assert_eq!(
        second.lease_epoch,
        LeaseEpoch {
            generation: 2,
            counter: 1
        }
    );
    assert!(second.lease_epoch > claim.lease_epoch);
}
