//! The sections that every role reads, and that of the coordinator. The sections of workers and
//! trainers are in `roles`, that of the crawler in `crawl`. `deploy/capstan.toml` shows each key
//! with its default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Settings of the object store by name (`aws_endpoint`, `aws_access_key_id` ...). All are
    /// treated as secrets. Settings that are missing here are read from the store's own variables.
    pub options: BTreeMap<String, Secret>,
    /// How long a process waits at start for a store that does not answer yet.
    pub wait_seconds: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "capstan-store".to_owned(),
            options: BTreeMap::new(),
            wait_seconds: 60,
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
        if self.wait_seconds > 86_400 {
            return Err(value("store", "wait_seconds", "must be 0 to 86400"));
        }
        Ok(())
    }
}

/// `[coordinator]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coordinator {
    /// The address that the coordinator binds.
    pub listen: SocketAddr,
    /// The URL at which workers, trainers and the command line reach it.
    pub address: String,
    /// Its database: `sqlite:FILE`, or `sqlite::memory:` for tests.
    #[serde(serialize_with = "secret::serialize_url")]
    pub database: String,
    /// How long a lease lasts without a heartbeat.
    pub lease_seconds: u64,
    /// The interval of a worker's heartbeats.
    pub heartbeat_seconds: u64,
    /// The longest time that a lease request waits for a task.
    pub poll_seconds: u64,
    /// Attempts of a task before it is quarantined.
    pub max_attempts: u32,
    /// Delay before the second attempt. It doubles with each further attempt.
    pub backoff_ms: u64,
    /// Longest delay between two attempts.
    pub max_backoff_ms: u64,
    /// How long a rank waits for the other ranks of its gang.
    pub ring_join_seconds: u64,
    /// Connections at a time; further ones are closed. A worker or trainer has two.
    pub max_connections: usize,
    /// Requests of one connection at a time. A slot of a worker that waits for a task is one.
    pub max_streams_per_connection: u32,
    /// Requests of one connection in a second. It may catch up with two seconds.
    pub max_requests_per_second: u64,
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
            max_connections: 16_384,
            max_streams_per_connection: 2_048,
            max_requests_per_second: 500,
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
                 heartbeat does not expire a lease",
            );
        }
        if self.poll_seconds == 0 || self.poll_seconds > 300 {
            return fail("poll_seconds", "must be 1 to 300");
        }
        if self.max_attempts == 0 {
            return fail("max_attempts", "must be at least 1");
        }
        if self.backoff_ms > self.max_backoff_ms {
            return fail("backoff_ms", "must not exceed max_backoff_ms");
        }
        if self.ring_join_seconds == 0 {
            return fail("ring_join_seconds", "must be at least 1");
        }
        self.check_limits()?;
        match url::Url::parse(&self.address) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            _ => {
                let reason = format!(
                    "`{}` is not an address: give http://host:port, or https:// with certificates",
                    self.address
                );
                return Err(value("coordinator", "address", reason));
            }
        }
        if !self.database.starts_with("sqlite:") {
            return fail(
                "database",
                "must be sqlite:FILE; other databases are not supported yet",
            );
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let fail = |key, reason: &str| Err(value("coordinator", key, reason));
        if self.max_connections == 0 || self.max_connections > 1_000_000 {
            return fail("max_connections", "must be 1 to 1000000");
        }
        if self.max_streams_per_connection == 0 {
            return fail("max_streams_per_connection", "must be at least 1");
        }
        if self.max_requests_per_second == 0 || self.max_requests_per_second > 1_000_000 {
            return fail("max_requests_per_second", "must be 1 to 1000000");
        }
        Ok(())
    }
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// `auto`, `cpu`, `cuda` or `cuda:N`. The model crate defines what a device is, so the program
    /// parses the text when it loads its configuration.
    pub spec: String,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            spec: "auto".to_owned(),
        }
    }
}

/// `[import]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    /// Folders that imports and given models may be read from, after resolving links. Files outside
    /// of them are not read. A relative `source` is below the first folder that contains it.
    pub roots: Vec<PathBuf>,
}

impl Default for Import {
    fn default() -> Self {
        Self {
            roots: vec![PathBuf::from(".")],
        }
    }
}

impl Import {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.roots.iter().any(|root| root.as_os_str().is_empty()) {
            true => Err(value(
                "import",
                "roots",
                "holds an empty path: give folders, such as [\"/data\"]",
            )),
            false => Ok(()),
        }
    }
}

/// The format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// The filter of `tracing`: `info`, `warn,capstan_coordinator=debug`.
    pub filter: String,
    /// The format.
    pub format: LogFormat,
    /// The address that serves `/healthz`, `/readyz` and `/metrics` in plain HTTP; empty for none.
    pub health_listen: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Auto,
            health_listen: String::new(),
        }
    }
}

impl Telemetry {
    /// The address that serves health and metrics, if one is set.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_listen.parse().ok()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.health_listen.is_empty() && self.health_address().is_none() {
            let reason = format!(
                "`{}` is not an address: give address:port such as 0.0.0.0:7401, or leave it empty",
                self.health_listen
            );
            return Err(value("telemetry", "health_listen", reason));
        }
        tracing_subscriber::EnvFilter::try_new(&self.filter)
            .map(drop)
            .map_err(|error| value("telemetry", "filter", format!("`{}`: {error}", self.filter)))
    }
}

pub(super) fn value(
    section: &'static str,
    key: &'static str,
    reason: impl Into<String>,
) -> ConfigError {
    ConfigError::Value {
        section,
        key,
        reason: reason.into(),
    }
}
