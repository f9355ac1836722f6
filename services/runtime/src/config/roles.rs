//! `[worker]` and `[trainer]`: the processes that execute tasks.

use std::net::SocketAddr;
use std::path::PathBuf;

use capstan_plan::task::Role;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::value;

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Its name, unique among live workers. If empty, it consists of host name and process id.
    pub name: String,
    /// Roles of the tasks that it executes. `train` is not among them: the trainer is a process of
    /// its own.
    pub roles: Vec<Role>,
    /// Tasks that it executes at the same time.
    pub slots: u32,
    /// Folder of the shard cache.
    pub cache_folder: PathBuf,
    /// Largest size of the shard cache.
    pub cache_bytes: u64,
    /// Threads that it computes on; 0 means every core.
    pub threads: usize,
    /// How long it may finish its tasks when it is asked to stop.
    pub grace_seconds: u64,
    /// How long the coordinator may be unavailable before the process exits.
    pub patience_seconds: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            name: String::new(),
            roles: vec![
                Role::Crawl,
                Role::Curate,
                Role::Caption,
                Role::Filter,
                Role::Evaluate,
            ],
            slots: 1,
            cache_folder: PathBuf::from("capstan-cache"),
            cache_bytes: 4 << 30,
            threads: 0,
            grace_seconds: 10,
            patience_seconds: 300,
        }
    }
}

impl Worker {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.roles.is_empty() {
            return Err(value(
                "worker",
                "roles",
                "is empty: give any of crawl, curate, caption, filter, evaluate",
            ));
        }
        if self.roles.contains(&Role::Train) {
            let reason = "`train` is not a role of a worker: start `capstan trainer` for it";
            return Err(value("worker", "roles", reason));
        }
        if self.slots == 0 || self.slots > 1_024 {
            return Err(value("worker", "slots", "must be 1 to 1024"));
        }
        check_waits("worker", self.grace_seconds, self.patience_seconds)
    }
}

/// `[trainer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trainer {
    /// Its name, unique among live workers. If empty, it consists of host name and process id.
    pub name: String,
    /// The address that its ring listener binds; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The address at which other ranks reach it, as `host:port`; port 0 means the bound port. If
    /// empty, it is the bound address.
    pub advertise: String,
    /// Folder of the shard cache.
    pub cache_folder: PathBuf,
    /// Largest size of the shard cache.
    pub cache_bytes: u64,
    /// Most bytes of decoded pictures that a rank keeps in memory.
    pub picture_bytes: u64,
    /// Folder for `<run>/<stage>.jsonl`, with one line per training step, and for TensorBoard event
    /// files in `<run>/<stage>/`.
    pub metrics_folder: PathBuf,
    /// Limit for one collective operation of the ranks.
    pub ring_timeout_seconds: u64,
    /// How long it may write a checkpoint when it is asked to stop.
    pub grace_seconds: u64,
    /// How long the coordinator may be unavailable before the process exits.
    pub patience_seconds: u64,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: String::new(),
            cache_folder: PathBuf::from("capstan-cache"),
            cache_bytes: 4 << 30,
            picture_bytes: 1 << 30,
            metrics_folder: PathBuf::from("capstan-metrics"),
            ring_timeout_seconds: 60,
            grace_seconds: 10,
            patience_seconds: 300,
        }
    }
}

impl Trainer {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.ring_timeout_seconds == 0 {
            return Err(value(
                "trainer",
                "ring_timeout_seconds",
                "must be at least 1",
            ));
        }
        if self.advertise.is_empty() && self.listen.ip().is_unspecified() {
            let reason = "is empty and `listen` is every interface: give the address at which other ranks reach it";
            return Err(value("trainer", "advertise", reason));
        }
        if !self.advertise.is_empty() && !super::crawl::is_host_and_port(&self.advertise, 0) {
            let reason = format!(
                "`{}` is not an address: give host:port, or host:0 for the bound port",
                self.advertise
            );
            return Err(value("trainer", "advertise", reason));
        }
        check_waits("trainer", self.grace_seconds, self.patience_seconds)
    }
}

/// Checks the upper bounds of waits. A process that waits for days would go unnoticed.
fn check_waits(section: &'static str, grace: u64, patience: u64) -> Result<(), ConfigError> {
    if grace > 3_600 {
        return Err(value(section, "grace_seconds", "must be 0 to 3600"));
    }
    if patience == 0 || patience > 86_400 {
        return Err(value(section, "patience_seconds", "must be 1 to 86400"));
    }
    Ok(())
}
