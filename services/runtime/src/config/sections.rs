//! The sections that every role reads, and the coordinator's; those of workers and trainers are in
//! `roles`, the crawler's in `crawl`. `deploy/capstan.toml` shows each key with its default.

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
    /// Settings of the object store by name (`aws_endpoint`, `aws_access_key_id` ...), all
    /// taken for secrets. What is not given here is read from the store's own variables.
    pub options: BTreeMap<String, Secret>,
    /// How long a process that starts waits for a store that does not answer yet.
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
                let reason = format!(
                    "`{}` is no address: give http://host:port, or https:// with certificates",
                    self.address
                );
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

/// `[device]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// `auto`, `cpu`, `cuda` or `cuda:N`. The rooms that compute define what a device is, so the
    /// program reads the text where it loads its configuration.
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
    /// Where `/healthz`, `/readyz` and `/metrics` are served, in plain HTTP; empty for nowhere.
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
    /// Where health and metrics are served, if anywhere.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_listen.parse().ok()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.health_listen.is_empty() && self.health_address().is_none() {
            let reason = format!(
                "`{}` is no address: give address:port such as 0.0.0.0:7401, or leave it empty",
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
