//! The roles of a cluster as processes over one store: started, killed, restarted.
//!
//! ```text
//!             demoweb        pages, pictures, annotated sets
//!                ▲
//!  worker-a ─────┤                      trainer-a ◄─ ring ─► trainer-b
//!  worker-b ─────┘                          │                    │
//!      └───────────────► coordinator ◄──────┴────────────────────┘
//! ```
//! All roles read one TOML file; settings of a single process are in its environment. With `secure`,
//! each process has a folder with its own role's certificate and no other.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_dataset::{Store, checkpoints, commits, runs};
use capstan_plan::commit::Commit;
use capstan_plan::id::{RunId, StageName};
use capstan_runtime::fault;
use serde_json::Value;
use tokio::runtime::Runtime;

pub use self::settings::Setup;
use crate::harness::{Outcome, SEED, binary, outcome_in, succeed};
use crate::place::Place;
use crate::process::{Role, await_some};

/// Time beyond its grace period that a process may take to stop.
const SLACK: Duration = Duration::from_secs(5);
/// Lines at the end of each log that are shown if a test fails.
const SHOWN: usize = 25;

/// The processes of a cluster, in the order in which they are started. They are stopped in reverse.
pub const ROLES: [&str; 5] = [
    "coordinator",
    "worker-a",
    "worker-b",
    "trainer-a",
    "trainer-b",
];

/// Lock that a test holds while its cluster runs: two clusters on two cores would be slow enough to
/// expire each other's leases.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running cluster.
pub struct Cluster {
    setup: Setup,
    store: Store,
    /// Port of the coordinator, kept over restarts.
    port: u16,
    config: PathBuf,
    web: Role,
    roles: BTreeMap<String, Role>,
    runtime: Runtime,
}

impl Cluster {
    /// Starts the demo web and writes certificates and configuration. No other role is started.
    pub fn new(setup: Setup) -> Self {
        setup.lay_out_certificates();
        let web = start_web(&setup);
        let port = settings::free_port();
        let config = setup.write_config(port, &web.ready["hosts"]);
        Self {
            store: Store::open_with(&setup.store, setup.variables.clone()).unwrap(),
            port,
            config,
            web,
            roles: BTreeMap::new(),
            runtime: Runtime::new().unwrap(),
            setup,
        }
    }

    /// Starts every role.
    pub fn start(setup: Setup) -> Self {
        let mut cluster = Self::new(setup);
        for name in ROLES {
            cluster.spawn(name);
        }
        for name in ROLES {
            cluster.role(name).await_ready();
        }
        cluster
    }

    /// Starts a role, or restarts one that has exited.
    pub fn spawn(&mut self, name: &str) {
        self.spawn_with(name, &[]);
    }

    /// Starts a role that kills itself at a fault point, `NAME` or `NAME:PASS`.
    pub fn spawn_armed(&mut self, name: &str, point: Option<&str>) {
        let point = point.map(|point| (fault::VARIABLE, point));
        self.spawn_with(name, point.as_slice());
    }

    /// Starts a role with these variables in its environment.
    pub fn spawn_with(&mut self, name: &str, variables: &[(&str, &str)]) {
        if let Some(mut before) = self.roles.remove(name) {
            assert!(before.exited().is_some(), "{name} is running already");
        }
        let mut command = self.command(name);
        command.envs(variables.iter().copied());
        let role = Role::spawn(&mut command, name, &self.setup.folder);
        self.roles.insert(name.to_owned(), role);
    }

    /// Removes a role that has exited from those that are expected to run.
    pub fn forget(&mut self, name: &str) {
        let exited = self.roles.remove(name).map(|mut role| role.exited());
        assert!(matches!(exited, Some(Some(_))), "{name} has not exited");
    }

    /// The command of a role: `coordinator`, or `worker-NAME`, `trainer-NAME`.
    pub fn command(&self, name: &str) -> Command {
        let kind = name.split('-').next().unwrap();
        let place = self.setup.place(name);
        let mut command = self.capstan(&place, kind);
        command.arg(kind);
        let key = format!("CAPSTAN__{}", kind.to_uppercase());
        match kind {
            "coordinator" => {
                command.env(format!("{key}__LISTEN"), self.address());
            }
            _ => {
                let cache = self.setup.folder.join(format!("{name}.cache"));
                command.env(format!("{key}__NAME"), name);
                command.env(format!("{key}__CACHE_FOLDER"), cache);
            }
        }
        if kind == "trainer" {
            command.env(format!("{key}__LISTEN"), format!("{}:0", place.address));
        }
        command
    }

    /// A client command with an operator's certificate and token.
    pub fn operator(&self, args: &[&str]) -> Command {
        let mut command = self.capstan(&self.setup.place("operator"), "operator");
        command.args(args);
        command
    }

    fn capstan(&self, place: &Place, role: &str) -> Command {
        let mut command = place.command(&binary());
        command.arg("--config").arg(&self.config);
        command.envs(self.setup.variables.iter().cloned());
        command.envs(self.setup.credentials(role));
        command.current_dir(&self.setup.folder);
        command
    }

    /// Address of the coordinator.
    pub fn address(&self) -> String {
        format!("{}:{}", self.setup.place("coordinator").address, self.port)
    }

    /// A role.
    pub fn role(&mut self, name: &str) -> &mut Role {
        let role = self.roles.get_mut(name);
        role.unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Folder of logs, databases and caches.
    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    /// Submits a pipeline without watching it.
    pub fn submit(&self, pipeline: &Path, run: &str) {
        let mut command = self.operator(&["run", "--detach", "--wait", "60", "--seed", SEED]);
        succeed(command.args(["--run", run]).arg(pipeline));
    }

    /// Commits of a run.
    pub fn commits(&self, run: &str) -> Vec<Commit> {
        let run = RunId::from(run);
        let commits = commits::of_run(&self.store, &run);
        self.runtime.block_on(commits).unwrap()
    }

    /// Tasks that the coordinator has leased, in order, as its log names them.
    pub fn leased(&mut self) -> Vec<String> {
        let events = self.role("coordinator").events_with("leased").into_iter();
        events
            .map(|event| event["task"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Suspends a worker (SIGSTOP) while it holds a lease whose task is not committed, and returns that
    /// task. No other worker may run.
    ///
    /// - `earlier`: leases before the worker was started, which are not its own.
    pub fn freeze(&mut self, name: &str, run: &str, earlier: usize) -> String {
        // Before that, a signal would end the process.
        self.role(name).await_ready();
        self.await_state("a lease whose task is not committed", |cluster| {
            cluster.role(name).signal("STOP");
            let held = cluster.leased().split_off(earlier).pop();
            let held = held.filter(|held| !cluster.is_committed(run, held));
            if held.is_none() {
                cluster.role(name).signal("CONT");
            }
            held
        })
    }

    /// Whether a task, as the coordinator's log names it, is committed.
    pub fn is_committed(&self, run: &str, task: &str) -> bool {
        self.commits(run)
            .iter()
            .any(|commit| task_of(commit) == task)
    }

    /// Step of the newest checkpoint of a training.
    pub fn newest_checkpoint(&self, run: &str, stage: &str) -> Option<u64> {
        let (run, stage) = (RunId::from(run), StageName::from(stage));
        let found = checkpoints::latest(&self.store, &run, &stage);
        let found = self.runtime.block_on(found).unwrap();
        found.map(|checkpoint| checkpoint.step)
    }

    /// Waits until `look` returns a value.
    ///
    /// # Panics
    /// If a role exits meanwhile, or at the limit of the setup.
    pub fn await_state<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        await_some(what, self.setup.limit, || {
            for (name, role) in &mut self.roles {
                let exited = role.exited();
                assert!(exited.is_none(), "{name} exited: {exited:?}");
            }
            look(self)
        })
    }

    /// Waits until the store says that the run is done. Needs no running coordinator.
    ///
    /// - `ended`: called for each role that exited; restarts the role, or fails the test.
    pub fn await_end(&mut self, run: &str, mut ended: impl FnMut(&mut Self, &str, ExitStatus)) {
        let what = format!("the end of run {run}");
        await_some(&what, self.setup.limit, || {
            for (name, status) in self.exited() {
                ended(self, &name, status);
            }
            self.is_done(run).then_some(())
        });
    }

    /// Roles that have exited.
    pub fn exited(&mut self) -> Vec<(String, ExitStatus)> {
        let roles = self.roles.iter_mut();
        let exited = roles.filter_map(|(name, role)| Some((name.clone(), role.exited()?)));
        exited.collect()
    }

    /// Whether the store says that the run is done. Needs no running coordinator.
    ///
    /// # Panics
    /// If the run ended otherwise.
    pub fn is_done(&self, run: &str) -> bool {
        let id = RunId::from(run);
        let standing = runs::standing(&self.store, &id);
        let Some(standing) = self.runtime.block_on(standing).unwrap() else {
            return false;
        };
        let state = standing.state;
        assert_eq!(state, runs::RunState::Done, "{run}: {}", standing.reason);
        true
    }

    /// Waits until the run is done; a role that exits before fails the test.
    pub fn await_quiet_end(&mut self, run: &str) {
        self.await_end(run, |_, name, status| panic!("{name} exited: {status}"));
    }

    /// Checks what an operator sees of the run: every stage is done, and no task is quarantined.
    pub fn check_done(&self, run: &str) {
        let output = succeed(&mut self.operator(&["watch", run, "--json", "--wait", "60"]));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["state"], "done", "{seen}");
        for stage in seen["stages"].as_array().unwrap() {
            assert_eq!(stage["state"], "done", "{stage}");
            assert_eq!(stage["quarantined"], serde_json::json!([]), "{stage}");
        }
    }

    /// Datasets, models and commits of the run.
    pub fn outcome(&self, run: &str) -> Outcome {
        self.runtime.block_on(outcome_in(&self.store, run))
    }

    /// Stops every role with SIGTERM, the coordinator last.
    ///
    /// # Panics
    /// If a role fails, or takes longer than its grace period and some slack.
    pub fn stop(mut self) {
        let limit = Duration::from_secs(self.setup.grace_seconds) + SLACK;
        for name in ROLES.iter().rev() {
            let Some(mut role) = self.roles.remove(*name) else {
                continue;
            };
            let status = role.terminate_within(limit);
            assert!(
                status.success(),
                "{name} exited with {status}:\n{}",
                role.log()
            );
        }
        let status = self.web.terminate();
        assert!(status.success(), "demoweb exited with {status}");
    }
}

impl Drop for Cluster {
    /// Prints the end of each log if the test failed, because the folder of logs is removed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (name, role) in &self.roles {
            let log = role.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            eprintln!("---- {name}\n{}", last.join("\n"));
        }
    }
}

/// The task of a commit, as the coordinator's log names it.
pub fn task_of(commit: &Commit) -> String {
    format!("{}/{}/{}", commit.run, commit.stage, commit.shard)
}

fn start_web(setup: &Setup) -> Role {
    let place = setup.place("demoweb");
    let mut command = place.command(&binary());
    let from = format!("{}:0", place.address);
    command.args(["demoweb", "--seed", SEED, "--listen-from", &from]);
    command.arg("--world").arg(&setup.world);
    command.arg("--annotations").arg(setup.annotations());
    let mut web = Role::spawn(&mut command, "demoweb", &setup.folder);
    web.await_ready();
    web
}
