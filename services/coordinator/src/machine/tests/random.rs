//! Random events, and invariants that are checked after each.

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::task::Role;
use proptest::prelude::*;

use super::*;

/// An event of a machine.
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
    Release {
        claim: prop::sample::Index,
    },
    Retry {
        shard: u8,
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
        1 => claim().prop_map(|claim| Event::Release { claim }),
        1 => (0u8..6).prop_map(|shard| Event::Retry { shard }),
        3 => (0u64..40).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Restart),
    ]
}

/// Shards of two runs.
fn of(shard: u8) -> Key {
    Key {
        run: format!("r{}", shard % 2).into(),
        ..key(&shard.to_string())
    }
}

fn base(of: u8) -> Digest {
    Digest::of(&[of])
}

/// A machine under random events, with its history.
struct Trial {
    machine: Machine,
    generation: u64,
    now: Now,
    /// Every claim that was granted.
    claims: Vec<Claim>,
    /// Final states, once reached.
    ended: BTreeMap<Key, State>,
    /// Tasks that were added and are not committed.
    added: BTreeSet<Key>,
    /// Tasks that were committed, and are no longer in the machine.
    committed: BTreeSet<Key>,
    /// The highest epoch that was granted.
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
            committed: BTreeSet::new(),
            highest: LeaseEpoch::default(),
        }
    }

    fn offer(&mut self, workers: &[u8]) {
        let offers: Vec<Offer> = workers
            .iter()
            .map(|worker| Offer {
                device: "cpu-avx512".into(),
                slots: 2,
                // The workers have different base files; tasks read one of four.
                cached: Arc::new([base(*worker), base(worker + 1)].into()),
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
                let key = of(shard);
                if self.committed.contains(&key) {
                    return;
                }
                let spec = Spec {
                    base: (world_size == 1).then(|| base(shard % 4)),
                    device: None,
                    may_twin: world_size == 1,
                    ..spec(Role::Crawl, world_size)
                };
                self.machine.add(key.clone(), spec);
                self.added.insert(key);
            }
            Event::Offer { workers } => self.offer(&workers),
            Event::Heartbeat { claim } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    let is_current = self.is_current(&claim);
                    let answer = self.machine.heartbeat(&claim, self.now);
                    assert_eq!(answer.is_ok(), is_current, "a stale epoch was accepted");
                }
            }
            Event::Commit { shard } => {
                self.commit(&of(shard));
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
                    assert_eq!(answer.is_ok(), is_current, "a stale failure was accepted");
                }
            }
            Event::Undelivered { claim } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    self.machine.undelivered(&claim.key, claim.lease_epoch);
                }
            }
            Event::Release { claim } => {
                if let Some(claim) = pick(&self.claims, claim) {
                    let is_current = self.is_current(&claim);
                    let answer = self.machine.release(&claim);
                    assert_eq!(answer.is_ok(), is_current, "a stale lease was released");
                }
            }
            Event::Retry { shard } => {
                let key = of(shard);
                let was_given_up = self.ended.get(&key) == Some(&State::Quarantined);
                let retried = self.machine.retry(&key);
                assert_eq!(
                    retried, was_given_up,
                    "a task that was not given up was retried"
                );
                if retried {
                    self.ended.remove(&key);
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

    /// Reports a commit, in most cases that of a lease.
    fn commit(&mut self, key: &Key) {
        let held = self.machine.task(key).and_then(|task| task.held());
        let by = held.map_or(LeaseEpoch::default(), |held| held.lease.lease_epoch);
        if self.machine.committed(key, by, self.now) {
            self.added.remove(key);
            self.committed.insert(key.clone());
        }
    }

    /// Derived from the task record: the lease's epoch and worker.
    fn is_current(&self, claim: &Claim) -> bool {
        let held = self.machine.task(&claim.key).and_then(Task::held);
        let lease = held.and_then(|held| held.find(claim.lease_epoch));
        let rank = lease.and_then(|lease| lease.ranks.get(claim.rank));
        rank.is_some_and(|rank| rank.worker == claim.worker)
    }

    fn check(&mut self) {
        for key in &self.committed {
            assert_eq!(self.machine.task(key), None, "a committed task is kept");
        }
        for key in &self.added {
            let task = self.machine.task(key).expect("no task is lost");
            if let Some(ended) = self.ended.get(key) {
                assert_eq!(&task.state, ended, "a final state changed");
            } else if task.state.is_final() {
                self.ended.insert(key.clone(), task.state.clone());
            }
            if let State::Leased(held) = &task.state {
                for lease in held.leases() {
                    assert_eq!(lease.ranks.len(), task.spec.world_size, "part of a gang");
                }
                let ranks: Vec<_> = held.leases().flat_map(|lease| &lease.ranks).collect();
                let workers: BTreeSet<_> = ranks.iter().map(|rank| &rank.worker).collect();
                assert_eq!(workers.len(), ranks.len(), "a worker twice on one task");
                assert!(held.twin.is_none() || task.spec.may_twin, "twins of a gang");
            }
            assert!(
                task.attempts <= POLICY.max_attempts * 2,
                "too many attempts"
            );
            // Valid leases of one task are claims with different epochs.
            let current: BTreeSet<_> = self
                .claims
                .iter()
                .filter(|claim| &claim.key == key && self.is_current(claim))
                .map(|claim| claim.lease_epoch)
                .collect();
            let leases = task.held().map_or(0, |held| held.leases().count());
            assert_eq!(current.len(), leases, "a valid lease without a claim");
        }
    }

    /// Lets workers request tasks, send heartbeats, and fail or commit until every task is final.
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
                    self.commit(&claim.key);
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
        panic!("some tasks never became final");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// In any order of events: every valid lease has a holder, final states do not change, stale epochs
    /// are rejected, no task is lost, and every task becomes final.
    #[test]
    fn invariants_hold_after_any_events(events in prop::collection::vec(event(), 0..120)) {
        let mut trial = Trial::new();
        for event in events {
            trial.apply(event);
        }
        trial.play_out();
    }

    /// The outbox has every state of a task, in order.
    #[test]
    fn the_outbox_ends_with_the_states_of_the_tasks(events in prop::collection::vec(event(), 0..60)) {
        let mut trial = Trial::new();
        let mut written: BTreeMap<Key, Task> = BTreeMap::new();
        for event in events {
            let is_restart = matches!(event, Event::Restart);
            trial.apply(event);
            if is_restart {
                continue;
            }
            for change in trial.machine.take_changes() {
                written.insert((*change.key).clone(), change.task);
            }
            for key in &trial.committed {
                prop_assert_eq!(&written[key].state, &State::Committed);
            }
            for key in &trial.added {
                let task = trial.machine.task(key).unwrap();
                prop_assert_eq!(task.attempts, written[key].attempts);
                match (&task.state, &written[key].state) {
                    // Heartbeats, and the deadline after a restart, are not written.
                    (State::Leased(now), State::Leased(then)) => {
                        let epochs = |held: &Held| -> Vec<LeaseEpoch> {
                            held.leases().map(|lease| lease.lease_epoch).collect()
                        };
                        prop_assert_eq!(epochs(now), epochs(then))
                    }
                    (now, then) => prop_assert_eq!(now, then),
                }
            }
        }
    }
}

proptest! {
    /// The queues agree with the tasks after any events: a machine that is restored from the tasks
    /// alone grants the same offers as many tasks.
    #[test]
    fn the_queues_agree_with_the_tasks(events in prop::collection::vec(event(), 0..80)) {
        let mut trial = Trial::new();
        for event in events {
            trial.apply(event);
        }
        // After every wait for a cache, every ejection and every lease.
        trial.now += Duration::from_secs(3_600);
        trial.machine.tick(trial.now);
        let mut rebuilt = Machine::new(POLICY, trial.generation + 1);
        for key in &trial.added {
            let task = trial.machine.task(key).unwrap().clone();
            rebuilt.restore(key.clone(), task, trial.now);
        }
        let wants = Offer { slots: 100, ..offer("fresh", Role::Crawl) };
        trial.now += Duration::from_secs(3_600);
        let mut counts = Vec::new();
        for machine in [&mut trial.machine, &mut rebuilt] {
            machine.tick(trial.now);
            // All earlier leases have ended, and the backoffs of their tasks are over.
            machine.tick(trial.now + Duration::from_secs(120));
            let later = trial.now + Duration::from_secs(120);
            counts.push(machine.assign(std::slice::from_ref(&wants), later).len());
        }
        prop_assert_eq!(counts[0], counts[1]);
    }
}
