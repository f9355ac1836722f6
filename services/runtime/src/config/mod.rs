//! One configuration for every role: defaults < file < environment < flags.
//!
//! The configuration is read and checked before a port binds or a byte is written. Unknown keys are
//! errors, so that a misspelt setting is never ignored.

mod crawl;
mod error;
mod layers;
mod roles;
mod safety;
mod secret;
mod sections;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crawl::Crawl;
pub use error::ConfigError;
pub use layers::Overrides;
pub use roles::{Trainer, Worker};
pub use safety::Safety;
pub use secret::Secret;
pub use sections::{Coordinator, Device, Import, LogFormat, Store, Telemetry};

/// The settings of all roles, in sections. A role reads the sections that concern it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store of data, commits, versions and models.
    pub store: Store,
    /// The coordinator: its address, database and limits.
    pub coordinator: Coordinator,
    /// Workers: their roles and resources.
    pub worker: Worker,
    /// Trainers: one rank of a gang each.
    pub trainer: Trainer,
    /// The device that models compute on.
    pub device: Device,
    /// The hosts that a crawler may contact.
    pub crawl: Crawl,
    /// The folder that imports are read from.
    pub import: Import,
    /// Logs, health and metrics.
    pub telemetry: Telemetry,
    /// Certificates, the token, and what is allowed without them.
    pub safety: Safety,
}

impl Config {
    /// Reads and checks the configuration of this process.
    ///
    /// - `path`: the file, which must exist; `None` reads no file.
    /// - `overrides`: settings of flags.
    ///
    /// # Errors
    /// [`ConfigError`]: one line with the file (or variable, or flag), the section, the key and the
    /// fix.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars(), overrides)
    }

    /// [`Config::load`] with the environment as an argument.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let config = layers::read(path, environment, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// The effective configuration as TOML, with secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain data with string keys")
    }

    /// Checks the constraints that the types do not express.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.store.check()?;
        self.coordinator.check()?;
        self.worker.check()?;
        self.trainer.check()?;
        self.crawl.check()?;
        self.import.check()?;
        self.telemetry.check()?;
        self.safety.check()?;
        self.safety.check_address(&self.coordinator.address)?;
        let listeners = [
            ("coordinator", "listen", self.coordinator.listen),
            ("trainer", "listen", self.trainer.listen),
        ];
        for (section, key, address) in listeners {
            self.safety.check_listener(section, key, address)?;
        }
        Ok(())
    }
}
