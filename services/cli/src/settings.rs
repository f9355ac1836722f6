//! The sources of settings: file, environment, `--set`, flags.

use std::path::PathBuf;

use capstan_runtime::{Config, Overrides};
use clap::Args as ClapArgs;

use crate::error::{Exit, ExpectedError, OrExit};
use crate::roles;

/// The flags for settings that every command takes.
#[derive(Debug, ClapArgs)]
pub struct Settings {
    /// Configuration file (TOML) of every role; defaults < file < CAPSTAN__SECTION__KEY < flags.
    #[arg(long, global = true, value_name = "FILE.toml", env = "CAPSTAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Override one setting of file and environment; repeatable.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl Settings {
    /// The configuration of a command without flags of its own.
    ///
    /// # Errors
    /// Configuration, naming file, section and key.
    pub fn load(&self) -> Result<Config, ExpectedError> {
        self.load_with(Overrides::new())
    }

    /// The configuration, overridden by the flags of the command.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_with(&self, mut flags: Overrides) -> Result<Config, ExpectedError> {
        for setting in &self.set {
            flags = flags.parse(setting).or_exit(Exit::Usage)?;
        }
        let config = Config::load(self.config.as_deref(), flags).or_exit(Exit::Configuration)?;
        // `runtime` does not know the devices; the rooms that compute do.
        roles::device_spec(&config)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_none_is_refused_where_the_configuration_is_loaded() {
        let settings = Settings {
            config: None,
            set: vec!["device.spec=tpu".to_owned()],
        };
        let error = settings.load().unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration);
        assert_eq!(
            error.to_string(),
            "configuration: [device] spec: device `tpu` is unknown: use auto, cpu, cuda or cuda:N"
        );
    }
}
