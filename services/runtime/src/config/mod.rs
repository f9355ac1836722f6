//! One configuration for every role: defaults < file < environment < flags.
//!
//! All of it is read and checked before a port binds or a byte is written. Unknown keys are
//! refused, so that a misspelt setting is never silently ignored.

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

/// The settings of every role, a section each. A role reads the sections that concern it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where data, commits, versions and models lie.
    pub store: Store,
    /// The coordinator: where it listens, what it remembers, when it gives up.
    pub coordinator: Coordinator,
    /// Workers: what they take and how much of it.
    pub worker: Worker,
    /// Trainers: one rank each.
    pub trainer: Trainer,
    /// What models compute on.
    pub device: Device,
    /// What a crawler may contact.
    pub crawl: Crawl,
    /// Where imports are read from.
    pub import: Import,
    /// Logs, health and metrics.
    pub telemetry: Telemetry,
    /// Certificates and the token, and what is allowed without them.
    pub safety: Safety,
}

impl Config {
    /// Reads and checks the configuration of this process.
    ///
    /// - `path`: the file; `None` reads none. A file that is named must be there.
    /// - `overrides`: what flags say.
    ///
    /// # Errors
    /// [`ConfigError`]: one line with the file (or variable, or flag), the section, the key
    /// and what to mend.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars(), overrides)
    }

    /// [`Config::load`] with the environment passed in.
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

    /// The effective configuration as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain data with string keys")
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.store.check()?;
        self.coordinator.check()?;
        self.worker.check()?;
        self.trainer.check()?;
        self.crawl.check()?;
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
