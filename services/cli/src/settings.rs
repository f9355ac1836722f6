//! Where the settings of a command come from: file, environment, `--set`, flags.

use std::path::PathBuf;

use capstan_runtime::{Config, Overrides};
use clap::Args as ClapArgs;

use crate::error::{Exit, ExpectedError, OrExit};

/// The flags about settings that every command takes.
#[derive(Debug, ClapArgs)]
pub struct Settings {
    /// Configuration file (TOML) of every role; defaults < file < CAPSTAN__SECTION__KEY < flags.
    #[arg(long, global = true, value_name = "FILE.toml", env = "CAPSTAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// One setting, over file and environment; may be given more than once.
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

    /// The configuration under a command's own flags.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_with(&self, mut flags: Overrides) -> Result<Config, ExpectedError> {
        for setting in &self.set {
            flags = flags.parse(setting).or_exit(Exit::Usage)?;
        }
        Config::load(self.config.as_deref(), flags).or_exit(Exit::Configuration)
    }
}
