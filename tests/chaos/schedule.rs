//! What happens to a cluster and when, drawn from a seed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use capstan_plan::draw::Draws;
use capstan_tests::cluster::ROLES;

use crate::link::Cut;

/// Fewest and most events of a schedule.
const EVENTS: (u64, u64) = (4, 8);
/// Time between the beginnings of two events, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 4_000);
/// Time between a kill and the next start.
const DOWN_MS: (u64, u64) = (0, 3_000);
/// Length of a freeze or a cut: shorter and longer than a lease of three seconds.
const STILL_MS: (u64, u64) = (300, 8_000);
/// How long a disk is full.
const FULL_MS: (u64, u64) = (200, 3_000);

/// A fault that lasts for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; at the end the role is started again.
    Kill(&'static str),
    /// SIGSTOP; at the end SIGCONT.
    Freeze(&'static str),
    /// The role cannot reach the coordinator.
    Cut(&'static str, Cut),
    /// A disk is full.
    Full(Disk),
}

/// A disk of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disk {
    /// Of the object store.
    Store,
    /// Of the coordinator's database.
    Database,
    /// Of what workers and trainers keep: cached objects, models, checkpoints under way.
    Caches,
}

impl Disk {
    pub const ALL: [Self; 3] = [Self::Store, Self::Database, Self::Caches];

    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Database => "database",
            Self::Caches => "caches",
        }
    }
}

impl Fault {
    /// The process or the disk that it hits. One fault at a time hits each.
    fn victim(self) -> &'static str {
        match self {
            Self::Kill(role) | Self::Freeze(role) | Self::Cut(role, _) => role,
            Self::Full(disk) => disk.name(),
        }
    }
}

/// A fault with its times since the run was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub fault: Fault,
    pub from: Duration,
    pub to: Duration,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        match self.fault {
            Fault::Kill(role) => write!(f, "kill {role}")?,
            Fault::Freeze(role) => write!(f, "freeze {role}")?,
            Fault::Cut(role, Cut::Silent) => write!(f, "silence {role}")?,
            Fault::Cut(role, Cut::Refused) => write!(f, "refuse {role}")?,
            Fault::Full(disk) => write!(f, "fill {}", disk.name())?,
        }
        write!(f, " {from:.1}-{to:.1}")
    }
}

/// The events of a seed, by their beginnings.
pub fn schedule(seed: u64) -> Vec<Event> {
    let mut random = Random::new(seed);
    let count = random.between(EVENTS.0, EVENTS.1);
    let mut busy: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut from = Duration::ZERO;
    let mut events = Vec::new();
    for _ in 0..count {
        from += random.millis(PAUSE_MS);
        let (fault, lasts) = random.fault();
        let free_at = busy.get(fault.victim()).copied().unwrap_or_default();
        from = from.max(free_at);
        let to = from + lasts;
        busy.insert(fault.victim(), to);
        events.push(Event { fault, from, to });
    }
    events
}

struct Random {
    draws: Draws,
    drawn: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self {
            draws: Draws::new(seed, "chaos"),
            drawn: 0,
        }
    }

    /// Uniform, both ends included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.drawn += 1;
        least + self.draws.u64(b"", self.drawn) % (most - least + 1)
    }

    fn millis(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    fn role(&mut self, roles: &[&'static str]) -> &'static str {
        roles[self.between(0, roles.len() as u64 - 1) as usize]
    }

    /// A fault, and how long it lasts.
    fn fault(&mut self) -> (Fault, Duration) {
        match self.between(0, 9) {
            0..=3 => (Fault::Kill(self.role(&ROLES)), self.millis(DOWN_MS)),
            4..=6 => (Fault::Freeze(self.role(&ROLES)), self.millis(STILL_MS)),
            7 => {
                let disk = Disk::ALL[self.between(0, Disk::ALL.len() as u64 - 1) as usize];
                (Fault::Full(disk), self.millis(FULL_MS))
            }
            other => {
                let cut = if other == 8 {
                    Cut::Silent
                } else {
                    Cut::Refused
                };
                // The coordinator itself is at the other end of every link.
                let role = self.role(&ROLES[1..]);
                (Fault::Cut(role, cut), self.millis(STILL_MS))
            }
        }
    }
}

#[test]
fn one_seed_gives_one_schedule_without_overlaps() {
    for seed in 0..1_000 {
        let events = schedule(seed);
        assert_eq!(events, schedule(seed));
        for (index, event) in events.iter().enumerate() {
            let earlier = events[..index].iter();
            let same = earlier.filter(|other| other.fault.victim() == event.fault.victim());
            assert!(
                same.into_iter().all(|other| other.to <= event.from),
                "seed {seed}"
            );
        }
    }
    assert_ne!(schedule(0), schedule(1));
}
