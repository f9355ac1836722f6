//! What every process of Capstan needs before it does its work: configuration, telemetry,
//! shutdown and the points at which tests kill it, a module each, and nothing else. It calls none
//! of our rooms.
//!
//! ```text
//! defaults < capstan.toml < CAPSTAN__SECTION__KEY < flags ─► Config (checked) ─► role::run
//! SIGTERM, SIGINT ─► CancellationToken ─► every loop; a second signal exits at once
//! ```

pub mod config;
pub mod fault;
pub mod shutdown;
pub mod telemetry;

pub use config::{Config, ConfigError, Overrides};
