//! Second leases of tasks that take far longer than others of their stage.

use std::collections::BTreeSet;

use super::*;

const SHARDS: u64 = 12;

fn shard(ordinal: u64) -> String {
    format!("{ordinal:05}")
}

/// A stage of twelve shards: eleven were committed within two seconds each, and `slow` has held the
/// twelfth since the start.
fn nearly_done(may_twin: bool) -> (Machine, Claim) {
    let mut machine = Machine::new(POLICY, 1);
    for ordinal in 0..SHARDS {
        let spec = Spec {
            may_twin,
            ..spec(Role::Crawl, 1)
        };
        machine.add(key(&shard(ordinal)), spec);
    }
    let slow = lease(&mut machine, "slow", seconds(0)).unwrap();
    for _ in 1..SHARDS {
        let done = lease(&mut machine, "w", seconds(0)).unwrap();
        assert!(machine.committed(&done.key, done.lease_epoch, seconds(2)));
    }
    (machine, slow)
}

#[test]
fn a_straggler_gets_a_second_lease_and_the_first_commit_wins() {
    let (mut machine, slow) = nearly_done(true);
    assert!(
        lease(&mut machine, "w", seconds(6)).is_none(),
        "it has not run for three times the median"
    );
    assert!(
        lease(&mut machine, "slow", seconds(7)).is_none(),
        "this worker holds the task"
    );
    let twin = lease(&mut machine, "w", seconds(7)).unwrap();
    assert_eq!(twin.key, slow.key);
    assert!(twin.lease_epoch > slow.lease_epoch);
    assert!(
        lease(&mut machine, "w3", seconds(20)).is_none(),
        "at most two leases"
    );
    machine.heartbeat(&slow, seconds(20)).unwrap();
    machine.heartbeat(&twin, seconds(20)).unwrap();
    machine.take_changes();
    assert!(machine.committed(&slow.key, twin.lease_epoch, seconds(21)));
    let change = machine.take_changes().pop().unwrap();
    let over = What::Moved(vec![slow.lease_epoch, twin.lease_epoch]);
    assert_eq!(change.what, over, "both leases end");
    for loser in [&slow, &twin] {
        assert_eq!(machine.heartbeat(loser, seconds(22)), Err(Stale::NotHeld));
    }
    let notices = machine.take_notices();
    assert!(matches!(&notices[..], [Notice::Twin { .. }]), "{notices:?}");
}

#[test]
fn one_of_two_leases_may_fail_expire_or_be_released() {
    type Ends = fn(&mut Machine, &Claim);
    let ends: [Ends; 3] = [
        |machine, claim| {
            let kind = FailureKind::Transient;
            machine.fail(claim, kind, "503", seconds(8)).unwrap();
        },
        |machine, claim| machine.release(claim).unwrap(),
        |machine, claim| machine.undelivered(&claim.key, claim.lease_epoch),
    ];
    for end in ends {
        for first in [true, false] {
            let (mut machine, slow) = nearly_done(true);
            let twin = lease(&mut machine, "w", seconds(7)).unwrap();
            let (gone, left) = if first {
                (&slow, &twin)
            } else {
                (&twin, &slow)
            };
            end(&mut machine, gone);
            assert_eq!(machine.heartbeat(gone, seconds(9)), Err(Stale::NotHeld));
            machine.heartbeat(left, seconds(9)).unwrap();
            assert!(
                machine.tick(seconds(39)).is_empty(),
                "one lease, renewed at 9"
            );
            assert_eq!(machine.tick(seconds(40)), std::slice::from_ref(&slow.key));
        }
    }
    let (mut machine, slow) = nearly_done(true);
    let twin = lease(&mut machine, "w", seconds(7)).unwrap();
    machine.heartbeat(&twin, seconds(30)).unwrap();
    assert_eq!(machine.tick(seconds(31)), std::slice::from_ref(&slow.key));
    machine.heartbeat(&twin, seconds(32)).unwrap();
}

#[test]
fn a_permanent_failure_ends_both_leases() {
    let (mut machine, slow) = nearly_done(true);
    let twin = lease(&mut machine, "w", seconds(7)).unwrap();
    machine
        .fail(&twin, FailureKind::PoisonShard, "", seconds(8))
        .unwrap();
    assert_eq!(machine.task(&slow.key).unwrap().state, State::Quarantined);
    assert_eq!(machine.heartbeat(&slow, seconds(9)), Err(Stale::NotHeld));
}

#[test]
fn crawls_gangs_and_single_tasks_get_no_second_lease() {
    let (mut machine, _) = nearly_done(false);
    assert!(lease(&mut machine, "w", seconds(29)).is_none());
    let mut machine = Machine::new(POLICY, 1);
    let lone = Spec {
        device: None,
        may_twin: true,
        ..spec(Role::Crawl, 1)
    };
    machine.add(key("all"), lone);
    lease(&mut machine, "slow", seconds(0)).unwrap();
    assert!(
        lease(&mut machine, "w", seconds(29)).is_none(),
        "nothing of its stage is committed"
    );
}

#[test]
fn ready_tasks_go_before_second_leases() {
    let (mut machine, slow) = nearly_done(true);
    machine.add(
        Key {
            stage: "other".into(),
            ..key("0")
        },
        spec(Role::Crawl, 1),
    );
    let first = lease(&mut machine, "w", seconds(20)).unwrap();
    assert_eq!(first.key.stage.as_str(), "other");
    assert_eq!(
        lease(&mut machine, "w3", seconds(20)).unwrap().key,
        slow.key
    );
}

#[test]
fn both_leases_survive_a_restart() {
    let (mut machine, slow) = nearly_done(true);
    let twin = lease(&mut machine, "w", seconds(7)).unwrap();
    let task = machine.task(&slow.key).unwrap().clone();
    let mut after = Machine::new(POLICY, 2);
    after.restore(slow.key.clone(), task, seconds(500));
    after.heartbeat(&slow, seconds(520)).unwrap();
    after.heartbeat(&twin, seconds(520)).unwrap();
    let expired: BTreeSet<Key> = after.tick(seconds(551)).into_iter().collect();
    assert_eq!(expired, [slow.key].into());
}
