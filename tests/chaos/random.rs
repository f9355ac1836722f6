//! Kills, freezes, cuts and full disks at random moments, drawn from a seed.
//!
//! ```text
//! cargo test -p capstan --test chaos random                                    # the seeds of CI
//! CAPSTAN_SEEDS=0..200 CAPSTAN_RESULTS=chaos.tsv cargo test -p capstan --test chaos random
//! CAPSTAN_SEEDS=17 cargo test -p capstan --test chaos random -- --nocapture     # one seed again
//! ```
//! A seed decides which faults happen and when (see [`crate::schedule`]). Processes run at their own
//! speed, so the state that a fault meets differs slightly from run to run.
//!
//! With `CAPSTAN_RESULTS`, each seed appends one line to that file: seed, outcome, seconds and events,
//! separated by tabs. Seeds that the file has already are skipped, so an interrupted range goes on where
//! it stopped. The folder of a failed seed, with all logs, is kept and named.

#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capstan_tests::cluster::{Cluster, ROLES, Setup, turn};
use capstan_tests::disk::SmallDisk;
use capstan_tests::harness::Outcome;
use capstan_tests::process::await_some;

use crate::link::Link;
use crate::schedule::{Disk, Event, Fault, schedule};
use crate::{RUN, pipeline, undisturbed};

/// Seeds of continuous integration.
const SEEDS: Range<u64> = 0..2;
/// Limit for one seed.
const LIMIT: Duration = Duration::from_secs(240);
/// More than enough for the pipeline: about 8 MB.
const DISK: &str = "size=64m";
/// A full disk fails every attempt at once, so the usual number is used up within seconds.
const ATTEMPTS: (&str, &str) = ("CAPSTAN__COORDINATOR__MAX_ATTEMPTS", "1000");
const ADDRESS: &str = "CAPSTAN__COORDINATOR__ADDRESS";
const DATABASE: &str = "CAPSTAN__COORDINATOR__DATABASE";

#[test]
fn random_faults_change_nothing() {
    let _turn = turn();
    let mut results = Results::open();
    let seeds: Vec<u64> = seeds().filter(|seed| !results.has(*seed)).collect();
    let mut failed = Vec::new();
    for seed in seeds {
        let expected = undisturbed();
        let began = Instant::now();
        let outcome = play(seed, expected);
        if outcome.is_err() {
            failed.push(seed);
        }
        let events = schedule(seed);
        let outcome = match outcome {
            Ok(begun) => format!("same after {begun} of {} events", events.len()),
            Err(said) => format!("FAILED: {said}"),
        };
        let events = shown(&events);
        let seconds = began.elapsed().as_secs_f64();
        results.add(&format!("{seed}\t{outcome}\t{seconds:.1}\t{events}"));
    }
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("CAPSTAN_SEEDS") else {
        return SEEDS;
    };
    let number = |text: &str| text.trim().parse::<u64>();
    let range = match text.split_once("..") {
        Some((from, to)) => number(from).and_then(|from| Ok(from..number(to)?)),
        None => number(&text).map(|seed| seed..seed + 1),
    };
    range.expect("CAPSTAN_SEEDS is FROM..TO or one seed")
}

fn shown(events: &[Event]) -> String {
    let events: Vec<_> = events.iter().map(Event::to_string).collect();
    events.join(", ")
}

/// One line per seed, on stdout and in a file.
struct Results {
    file: Option<PathBuf>,
    seen: BTreeSet<u64>,
}

impl Results {
    fn open() -> Self {
        let file = std::env::var_os("CAPSTAN_RESULTS").map(PathBuf::from);
        let text = file
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok());
        let text = text.unwrap_or_default();
        let first = |line: &str| line.split('\t').next()?.parse().ok();
        let seen = text.lines().filter_map(first).collect();
        Self { file, seen }
    }

    fn has(&self, seed: u64) -> bool {
        self.seen.contains(&seed)
    }

    fn add(&mut self, line: &str) {
        println!("{line}");
        if let Some(path) = &self.file {
            let file = OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.unwrap(), "{line}").unwrap();
        }
    }
}

/// Runs the pipeline under the events of a seed. Gives how many of them began before the end of the
/// run, or what went wrong, on one line.
fn play(seed: u64, expected: &Outcome) -> Result<usize, String> {
    let temp = tempfile::tempdir().unwrap();
    let trial = || {
        let mut trial = Trial::start(temp.path(), schedule(seed));
        let begun = trial.run();
        assert_eq!(&trial.cluster.outcome(RUN), expected);
        trial.cluster.stop();
        begun
    };
    catch_unwind(AssertUnwindSafe(trial)).map_err(|payload| {
        println!("seed {seed}: {}", shown(&schedule(seed)));
        println!("seed {seed}: logs are in {}", temp.keep().display());
        said(&*payload)
    })
}

/// The message of a panic on one line.
fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
    });
    let text = text.unwrap_or_else(|| "a panic without a message".to_owned());
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(400).collect()
}

/// Whether a role writes to a disk.
fn is_used_by(disk: Disk, role: &str) -> bool {
    match disk {
        Disk::Store => true,
        Disk::Database => role == "coordinator",
        Disk::Caches => role != "coordinator",
    }
}

/// A cluster to which the events of a schedule happen.
struct Trial {
    cluster: Cluster,
    /// From a worker or a trainer to the coordinator.
    links: BTreeMap<&'static str, Link>,
    /// None where this user may not mount.
    disks: BTreeMap<Disk, SmallDisk>,
    full: BTreeSet<Disk>,
    /// Roles that met a full disk since they were started, and may exit for it.
    excused: BTreeSet<String>,
    /// Events that have not begun, by their beginnings.
    to_begin: Vec<Event>,
    /// Events that have not ended.
    to_end: Vec<Event>,
}

impl Trial {
    fn start(folder: &Path, events: Vec<Event>) -> Self {
        let disks = Disk::ALL.into_iter();
        let disks = disks.filter_map(|disk| Some((disk, SmallDisk::mount(DISK)?)));
        let disks: BTreeMap<Disk, SmallDisk> = disks.collect();
        let mut setup = Setup {
            limit: LIMIT,
            ..Setup::in_folder(folder)
        };
        if let Some(disk) = disks.get(&Disk::Store) {
            setup.store = disk.folder().join("store").display().to_string();
        }
        let cluster = Cluster::new(setup);
        let address = cluster.address();
        let links = ROLES[1..].iter().map(|role| (*role, Link::start(&address)));
        let mut trial = Self {
            links: links.collect(),
            cluster,
            disks,
            full: BTreeSet::new(),
            excused: BTreeSet::new(),
            to_begin: events,
            to_end: Vec::new(),
        };
        for role in ROLES {
            trial.spawn(role);
        }
        for role in ROLES {
            trial.cluster.role(role).await_ready();
        }
        trial
    }

    fn spawn(&mut self, role: &str) {
        self.excused.remove(role);
        if self.full.iter().any(|disk| is_used_by(*disk, role)) {
            self.excused.insert(role.to_owned());
        }
        let folder = |disk| self.disks.get(&disk).map(SmallDisk::folder);
        let mut variables: Vec<(String, String)> = Vec::new();
        match self.links.get(role) {
            Some(link) => {
                let kind = role.split('-').next().unwrap().to_uppercase();
                variables.push((ADDRESS.to_owned(), link.url()));
                let cache = folder(Disk::Caches).map(|folder| folder.join(role));
                let key = format!("CAPSTAN__{kind}__CACHE_FOLDER");
                variables.extend(cache.map(|cache| (key, cache.display().to_string())));
            }
            None => {
                variables.push((ATTEMPTS.0.to_owned(), ATTEMPTS.1.to_owned()));
                let file = folder(Disk::Database).map(|folder| folder.join("capstan.db"));
                let url = file.map(|file| format!("sqlite:{}", file.display()));
                variables.extend(url.map(|url| (DATABASE.to_owned(), url)));
            }
        }
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.cluster.spawn_with(role, &variables);
    }

    /// Submits the pipeline and lets events happen until the run is done. Gives how many began.
    fn run(&mut self) -> usize {
        let planned = self.to_begin.len();
        self.cluster.submit(&pipeline(), RUN);
        let began = Instant::now();
        await_some("the end of the run", LIMIT, || {
            self.happen(began.elapsed());
            self.start_again();
            self.cluster.is_done(RUN).then_some(())
        });
        let begun = planned - self.to_begin.len();
        self.to_begin.clear();
        self.happen(Duration::MAX);
        for role in ROLES {
            // The schedule may have started it just now.
            self.cluster.role(role).await_ready();
        }
        self.cluster.check_done(RUN);
        begun
    }

    /// Begins and ends what is due.
    fn happen(&mut self, now: Duration) {
        let ending = self.to_end.extract_if(.., |event| event.to <= now);
        for event in ending.collect::<Vec<_>>() {
            self.end(event.fault);
        }
        let beginning = self.to_begin.extract_if(.., |event| event.from <= now);
        for event in beginning.collect::<Vec<_>>() {
            self.begin(event.fault);
            self.to_end.push(event);
        }
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(role) => {
                self.cluster.role(role).kill();
                self.cluster.forget(role);
            }
            Fault::Freeze(role) => {
                // Before that, its handler of signals is missing.
                self.cluster.role(role).await_ready();
                self.cluster.role(role).signal("STOP");
            }
            Fault::Cut(role, cut) => self.links[role].cut(cut),
            Fault::Full(which) => {
                if let Some(disk) = self.disks.get(&which) {
                    self.full.insert(which);
                    let users = ROLES.iter().filter(|role| is_used_by(which, role));
                    self.excused.extend(users.map(|role| (*role).to_owned()));
                    disk.fill();
                }
            }
        }
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(role) => self.spawn(role),
            Fault::Freeze(role) => self.cluster.role(role).signal("CONT"),
            Fault::Cut(role, _) => self.links[role].restore(),
            Fault::Full(which) => {
                if self.full.remove(&which) {
                    self.disks[&which].free();
                }
            }
        }
    }

    /// Starts roles again that exited for a full disk, as their supervisor would.
    fn start_again(&mut self) {
        for (role, status) in self.cluster.exited() {
            let log = self.cluster.role(&role).log();
            let last = log.lines().last().unwrap_or_default().to_owned();
            assert!(
                self.excused.contains(&role),
                "{role} exited: {status}: {last}"
            );
            self.spawn(&role);
        }
    }
}
