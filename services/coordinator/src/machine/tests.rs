//! Cases one by one, then random events against what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::id::Digest;
use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    lease: Duration::from_secs(30),
    max_attempts: 4,
    backoff: Duration::from_secs(1),
    max_backoff: Duration::from_secs(60),
};

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
    }
}

fn offer(worker: &str, role: Role) -> Offer {
    let cached = BTreeSet::new();
    Offer {
        worker: worker.into(),
        roles: [role].into(),
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
        key: grant.key.clone(),
        lease_epoch: grant.lease_epoch,
        rank: grant.rank,
        worker: worker.into(),
    }
}

/// One lease for one worker.
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
        "nothing is leased twice"
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
        cached: [bases[1]].into(),
        ..offer("w", Role::Crawl)
    };
    assert_eq!(
        machine.assign(&[offer], seconds(0))[0].key.shard.as_str(),
        "1"
    );
}

#[test]
fn heartbeats_keep_a_lease_and_silence_ends_it() {
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
fn the_last_attempt_is_made_elsewhere_where_two_are_alive() {
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
    // A worker of another role does not count; one of this role does, while it is alive.
    let busy = Offer {
        slots: 0,
        ..offer("w3", Role::Crawl)
    };
    machine.assign(&[busy], seconds(now));
    assert!(lease(&mut machine, "w1", seconds(now)).is_none());
    assert!(
        lease(&mut machine, "w1", seconds(now + 40)).is_some(),
        "w3 is gone"
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
fn bad_input_and_poison_are_given_up_at_once() {
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
        "one trainer is no gang"
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
fn a_rank_that_has_finished_may_fall_silent() {
    let mut machine = Machine::new(POLICY, 1);
    machine.add(key("all"), spec(Role::Train, 2));
    let both = [offer("t1", Role::Train), offer("t2", Role::Train)];
    let grants = machine.assign(&both, seconds(0));
    machine.rank_finished(&claim(&grants[1], "t2")).unwrap();
    machine
        .heartbeat(&claim(&grants[0], "t1"), seconds(29))
        .unwrap();
    assert!(machine.tick(seconds(50)).is_empty());
    assert!(machine.committed(&key("all")));
}

#[test]
fn a_rank_cannot_answer_for_another() {
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
fn a_zombies_commit_counts_whoever_holds_the_lease() {
    let mut machine = machine(&["0"]);
    lease(&mut machine, "w1", seconds(0)).unwrap();
    machine.tick(seconds(31));
    machine.tick(seconds(40));
    let second = lease(&mut machine, "w2", seconds(40)).unwrap();
    assert!(machine.committed(&key("0")));
    assert_eq!(machine.heartbeat(&second, seconds(41)), Err(Stale::NotHeld));
    assert!(machine.committed(&key("0")), "and again");
}

#[test]
fn what_was_given_up_stays_given_up() {
    let mut machine = machine(&["0"]);
    let claim = lease(&mut machine, "w", seconds(0)).unwrap();
    machine
        .fail(&claim, FailureKind::PoisonShard, "", seconds(0))
        .unwrap();
    assert!(
        !machine.committed(&key("0")),
        "later stages may have gone on without it"
    );
    assert_eq!(state(&machine, "0"), State::Quarantined);
}

#[test]
fn leases_of_a_cancelled_run_are_told_so() {
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
fn what_was_not_delivered_was_not_tried() {
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
fn a_restored_lease_gets_one_full_period_and_keeps_its_epoch() {
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

/// What may happen to a machine.
#[derive(Debug, Clone)]
enum Event {
    Add {
        shard: u8,
        world_size: usize,
    },
    Offer {
        workers: Vec<u8>,
    },
    Heartbeat {
        claim: prop::sample::Index,
    },
    Commit {
        shard: u8,
    },
    Finish {
        claim: prop::sample::Index,
    },
    Fail {
        claim: prop::sample::Index,
        kind: FailureKind,
    },
    Undelivered {
        claim: prop::sample::Index,
    },
    Pass {
        seconds: u64,
    },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        4 => Just(FailureKind::Transient),
        2 => Just(FailureKind::WorkerFault),
        1 => Just(FailureKind::PoisonShard),
    ];
    let claim = any::<prop::sample::Index>;
    prop_oneof![
        2 => (0u8..6, 1usize..4).prop_map(|(shard, world_size)| Event::Add { shard, world_size }),
        4 => prop::collection::vec(0u8..4, 1..5).prop_map(|workers| Event::Offer { workers }),
        3 => claim().prop_map(|claim| Event::Heartbeat { claim }),
        1 => (0u8..6).prop_map(|shard| Event::Commit { shard }),
        1 => claim().prop_map(|claim| Event::Finish { claim }),
        2 => (claim(), kind).prop_map(|(claim, kind)| Event::Fail { claim, kind }),
        1 => claim().prop_map(|claim| Event::Undelivered { claim }),
        3 => (0u64..40).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Restart),
    ]
}

/// A machine under random events, with everything that was ever true of it.
struct Trial {
    machine: Machine,
    generation: u64,
    now: Now,
    /// Every claim that was ever granted.
    claims: Vec<Claim>,
    /// Final states, once reached.
    ended: BTreeMap<Key, State>,
    /// Tasks that were added.
    added: BTreeSet<Key>,
    /// The highest epoch that was ever granted.
    highest: LeaseEpoch,
}

impl Trial {
    fn new() -> Self {
        Self {
            machine: Machine::new(POLICY, 1),
            generation: 1,
            now: seconds(0),
            claims: Vec::new(),
            ended: BTreeMap::new(),
            added: BTreeSet::new(),
            highest: LeaseEpoch::default(),
        }
    }

    fn offer(&mut self, workers: &[u8]) {
        let offers: Vec<Offer> = workers
            .iter()
            .map(|worker| Offer {
                slots: 2,
                ..offer(&format!("w{worker}"), Role::Crawl)
            })
            .collect();
        for grant in self.machine.assign(&offers, self.now) {
            assert!(grant.lease_epoch >= self.highest, "an epoch went back");
            assert!(
                grant.rank > 0 || grant.lease_epoch > self.highest,
                "an epoch was reused"
            );
            self.highest = grant.lease_epoch;
            let worker = offers[grant.offer].worker.as_str().to_owned();
            self.claims.push(claim(&grant, &worker));
        }
    }

    fn restart(&mut self) {
        self.generation += 1;
        let mut machine = Machine::new(POLICY, self.generation);
        for key in &self.added {
            machine.restore(
                key.clone(),
                self.machine.task(key).unwrap().clone(),
                self.now,
            );
        }
        self.machine = machine;
    }

    fn apply(&mut self, event: Event) {
        let pick = |claims: &[Claim], index: prop::sample::Index| {
            (!claims.is_empty()).then(|| index.get(claims).clone())
        };
        match event {
            Event::Add { shard, world_size } => {
                let key = key(&shard.to_string());
                self.machine.add(key.clone(), spec(Role::Crawl, world_size));
                self.added.insert(key);
            }
            Event::Offer { workers } => self.offer(&workers),
            Event::Heartbeat { claim } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    let is_current = self.is_current(&claim);
                    let answer = self.machine.heartbeat(&claim, self.now);
                    assert_eq!(answer.is_ok(), is_current, "a stale epoch was taken");
                }
            }
            Event::Commit { shard } => {
                self.machine.committed(&key(&shard.to_string()));
            }
            Event::Finish { claim } => {
                if let Some(claim) = pick(&self.claims, claim).filter(|claim| claim.rank > 0) {
                    let _ = self.machine.rank_finished(&claim);
                }
            }
            Event::Fail { claim, kind } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    let is_current = self.is_current(&claim);
                    let answer = self.machine.fail(&claim, kind, "x", self.now);
                    assert_eq!(answer.is_ok(), is_current, "a stale failure was taken");
                }
            }
            Event::Undelivered { claim } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    self.machine.undelivered(&claim.key, claim.lease_epoch);
                }
            }
            Event::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.machine.tick(self.now);
            }
            Event::Restart => self.restart(),
        }
        self.check();
    }

    /// Told from the task alone: the lease that it is under has this epoch and worker.
    fn is_current(&self, claim: &Claim) -> bool {
        match &self.machine.task(&claim.key).unwrap().state {
            State::Leased(lease) => {
                lease.lease_epoch == claim.lease_epoch
                    && lease.ranks.get(claim.rank).map(|rank| &rank.worker) == Some(&claim.worker)
            }
            _ => false,
        }
    }

    fn check(&mut self) {
        for key in &self.added {
            let task = self.machine.task(key).expect("no task is lost");
            if let Some(ended) = self.ended.get(key) {
                assert_eq!(&task.state, ended, "a final state changed");
            } else if task.state.is_final() {
                self.ended.insert(key.clone(), task.state.clone());
            }
            if let State::Leased(lease) = &task.state {
                assert_eq!(lease.ranks.len(), task.spec.world_size, "part of a gang");
                let workers: BTreeSet<_> = lease.ranks.iter().map(|rank| &rank.worker).collect();
                assert_eq!(workers.len(), lease.ranks.len(), "a worker twice in a gang");
            }
            assert!(task.attempts <= POLICY.max_attempts * 2, "tried for ever");
            // Two valid leases for one task would be two claims with different epochs.
            let current: BTreeSet<_> = self
                .claims
                .iter()
                .filter(|claim| &claim.key == key && self.is_current(claim))
                .map(|claim| claim.lease_epoch)
                .collect();
            assert!(current.len() <= 1, "two valid leases");
        }
    }

    /// Workers that poll, beat and fail or commit: everything must end.
    fn play_out(&mut self) {
        for round in 0..400 {
            if self
                .added
                .iter()
                .all(|key| self.machine.task(key).unwrap().state.is_final())
            {
                return;
            }
            self.offer(&[0, 1, 2, 3]);
            let current: Vec<Claim> = self
                .claims
                .iter()
                .filter(|claim| self.is_current(claim))
                .cloned()
                .collect();
            for (index, claim) in current.iter().enumerate() {
                if (round + index) % 3 == 0 {
                    self.machine.committed(&claim.key);
                } else {
                    let _ = self
                        .machine
                        .fail(claim, FailureKind::Transient, "x", self.now);
                }
            }
            self.now += Duration::from_secs(61);
            self.machine.tick(self.now);
            self.check();
        }
        panic!("tasks that never end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Never two valid leases, final is final, stale epochs are refused, no task is lost, and
    /// everything ends, whatever happens in whatever order.
    #[test]
    fn whatever_happens_the_promises_hold(events in prop::collection::vec(event(), 0..120)) {
        let mut trial = Trial::new();
        for event in events {
            trial.apply(event);
        }
        trial.play_out();
    }

    /// The outbox tells every state that a task goes through, in order.
    #[test]
    fn the_outbox_ends_where_the_tasks_are(events in prop::collection::vec(event(), 0..60)) {
        let mut trial = Trial::new();
        let mut written: BTreeMap<Key, Task> = BTreeMap::new();
        for event in events {
            let is_restart = matches!(event, Event::Restart);
            trial.apply(event);
            if is_restart {
                continue;
            }
            for change in trial.machine.take_changes() {
                written.insert(change.key, change.task);
            }
            for key in &trial.added {
                let task = trial.machine.task(key).unwrap();
                prop_assert_eq!(task.attempts, written[key].attempts);
                match (&task.state, &written[key].state) {
                    // Heartbeats, and the full period after a restart, are not written down.
                    (State::Leased(now), State::Leased(then)) => {
                        prop_assert_eq!(now.lease_epoch, then.lease_epoch)
                    }
                    (now, then) => prop_assert_eq!(now, then),
                }
            }
        }
    }
}
