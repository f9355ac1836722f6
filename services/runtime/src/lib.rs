//! What every process of Capstan needs before it starts its role: configuration; identity and
//! access (TLS, certificates, the bearer token); telemetry (logs, traces, metrics, the health
//! port); shutdown; pings on connections; the messages of panics; and the fault points at which tests
//! kill it. Each is a module. Of the crates of the workspace it calls `plan` alone, for the names of
//! roles.
//!
//! ```text
//! defaults < capstan.toml < CAPSTAN__SECTION__KEY < flags ─► Config (checked) ─► role::run
//! ca.pem, <role>.pem, <role>.key ─► Identity (checked) ─► gRPC and ring, both ways
//! SIGTERM, SIGINT ─► CancellationToken ─► every loop; a second signal exits immediately
//! /healthz, /readyz, /metrics ◄─ probes, Prometheus
//! ```

pub mod bearer;
pub mod certificates;
pub mod config;
pub mod fault;
pub mod health;
pub mod keepalive;
pub mod metrics;
pub mod panic;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, Overrides};
