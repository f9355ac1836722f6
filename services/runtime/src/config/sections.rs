//! The sections of the configuration. `deploy/capstan.toml` shows each key with its default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::secret::{self, Secret};

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// A folder, or the URL of a bucket: `s3://bucket/prefix`, `gs://`, `az://`; `memory://`.
    #[serde(serialize_with = "secret::serialize_url")]
    pub url: String,
    /// Settings of the object store by name (`aws_endpoint`, `aws_access_key_id` ...), all
    /// taken for secrets. What is not given here is read from the store's own variables.
    pub options: BTreeMap<String, Secret>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "capstan-store".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

impl Store {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.url.trim().is_empty() {
            return Err(value(
                "store",
                "url",
                "is empty: give a folder or s3://bucket/prefix",
            ));
        }
        Ok(())
    }
}

/// `[coordinator]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coordinator {
    /// Where the coordinator listens.
    pub listen: SocketAddr,
    /// Where workers, trainers and the command line find it.
    pub address: String,
    /// Its database: `sqlite:FILE`, or `sqlite::memory:` for tests.
    #[serde(serialize_with = "secret::serialize_url")]
    pub database: String,
    /// How long a lease lives without a heartbeat.
    pub lease_seconds: u64,
    /// Between two heartbeats of a worker.
    pub heartbeat_seconds: u64,
    /// How long a request for work waits at most.
    pub poll_seconds: u64,
    /// Attempts of a task before it is quarantined.
    pub max_attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff_ms: u64,
    /// Between two attempts at most.
    pub max_backoff_ms: u64,
    /// How long a rank waits for the other ranks of its gang.
    pub ring_join_seconds: u64,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            address: "http://127.0.0.1:7400".to_owned(),
            database: "sqlite:capstan.db".to_owned(),
            lease_seconds: 30,
            heartbeat_seconds: 5,
            poll_seconds: 20,
            max_attempts: 4,
            backoff_ms: 1_000,
            max_backoff_ms: 60_000,
            ring_join_seconds: 60,
        }
    }
}

impl Coordinator {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, reason: &str| Err(value("coordinator", key, reason));
        if self.lease_seconds == 0 {
            return fail("lease_seconds", "must be at least 1");
        }
        if self.heartbeat_seconds == 0 || self.heartbeat_seconds * 2 > self.lease_seconds {
            return fail(
                "heartbeat_seconds",
                "must be at least 1 and at most half of lease_seconds, so that one lost \
                 heartbeat loses no lease",
            );
        }
        if self.poll_seconds == 0 || self.poll_seconds > 300 {
            return fail("poll_seconds", "must be 1 to 300");
        }
        if self.max_attempts == 0 {
            return fail("max_attempts", "must be at least 1");
        }
        if self.backoff_ms > self.max_backoff_ms {
            return fail("backoff_ms", "is more than max_backoff_ms");
        }
        if self.ring_join_seconds == 0 {
            return fail("ring_join_seconds", "must be at least 1");
        }
        match url::Url::parse(&self.address) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            _ => {
                let reason = format!("`{}` is no address: give http://host:port", self.address);
                return Err(value("coordinator", "address", reason));
            }
        }
        if !self.database.starts_with("sqlite:") {
            return fail(
                "database",
                "give sqlite:FILE; other databases are not built in yet",
            );
        }
        Ok(())
    }
}

/// What a worker takes. A trainer is a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fetches pages and pictures, imports pairs.
    Crawl,
    /// Filters, balances, makes vocabularies.
    Curate,
    /// Captions.
    Caption,
    /// Filters by model.
    Filter,
    /// Evaluates.
    Evaluate,
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Its name, unique among live workers; empty makes one of host name and process id.
    pub name: String,
    /// What it takes.
    pub roles: Vec<Role>,
    /// Tasks at a time.
    pub slots: u32,
    /// Folder of the shard cache.
    pub cache_folder: PathBuf,
    /// Size of the shard cache at most.
    pub cache_bytes: u64,
    /// Threads that it computes on; 0 takes every core.
    pub threads: usize,
    /// How long it may finish what it holds when it is asked to stop.
    pub grace_seconds: u64,
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
        }
    }
}

impl Worker {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.roles.is_empty() {
            return Err(value(
                "worker",
                "roles",
                "is empty: any of crawl, curate, caption, filter, evaluate",
            ));
        }
        if self.slots == 0 || self.slots > 1_024 {
            return Err(value("worker", "slots", "must be 1 to 1024"));
        }
        Ok(())
    }
}

/// `[trainer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trainer {
    /// Its name, unique among live workers; empty makes one of host name and process id.
    pub name: String,
    /// Where its rank listens for the ring; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other ranks reach it; empty takes the address that it is bound to.
    pub advertise: String,
    /// Folder of the shard cache.
    pub cache_folder: PathBuf,
    /// Size of the shard cache at most.
    pub cache_bytes: u64,
    /// Limit for one exchange between ranks.
    pub ring_timeout_seconds: u64,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: String::new(),
            cache_folder: PathBuf::from("capstan-cache"),
            cache_bytes: 4 << 30,
            ring_timeout_seconds: 60,
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
            let reason =
                "is empty, and `listen` is every interface: say where other ranks reach it";
            return Err(value("trainer", "advertise", reason));
        }
        Ok(())
    }
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub spec: DeviceSpec,
}

/// What models compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// A GPU where the program is built for it and one answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this ordinal.
    Cuda(usize),
}

impl std::fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no device: give auto, cpu, cuda or cuda:N");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => {
                let ordinal = other.strip_prefix("cuda:").ok_or_else(wrong)?;
                ordinal.parse().map(Self::Cuda).map_err(|_| wrong())
            }
        }
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// `[crawl]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crawl {
    /// Names that the crawler resolves itself, to address and port. They alone may be loopback.
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Names whose private addresses (RFC 1918, CGNAT, link-local) may be contacted.
    pub allow_private: Vec<String>,
}

/// `[import]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    /// The folder that relative `source`s of import stages lie under; nothing outside is read.
    pub root: PathBuf,
}

impl Default for Import {
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
        }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What is logged, as `tracing` filters: `info`, `warn,capstan_coordinator=debug`.
    pub filter: String,
    /// How.
    pub format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

impl Telemetry {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        tracing_subscriber::EnvFilter::try_new(&self.filter)
            .map(drop)
            .map_err(|error| value("telemetry", "filter", format!("`{}`: {error}", self.filter)))
    }
}

/// `[safety]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Safety {
    /// Whether a listener that others can reach may start without TLS.
    pub insecure: bool,
}

impl Safety {
    /// Whether this listener may start: loopback always, any other only with `insecure`
    /// (certificates come later).
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the mend.
    pub fn check_listener(
        &self,
        section: &'static str,
        key: &'static str,
        address: SocketAddr,
    ) -> Result<(), ConfigError> {
        if address.ip().is_loopback() || self.insecure {
            return Ok(());
        }
        let reason = format!(
            "{address} is reachable by others and there is no TLS: listen on 127.0.0.1, or set \
             [safety] insecure = true (--insecure) on a network that you trust"
        );
        Err(value(section, key, reason))
    }
}

fn value(section: &'static str, key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        section,
        key,
        reason: reason.into(),
    }
}
