//! `capstan config`: the effective configuration.

use std::path::Path;

use capstan_runtime::{Config, Overrides};

use crate::error::{Exit, ExpectedError, OrExit};

/// The configuration of a command line without overriding flags.
///
/// # Errors
/// Configuration, naming file, section and key.
pub fn load(path: Option<&Path>) -> Result<Config, ExpectedError> {
    Config::load(path, Overrides::new()).or_exit(Exit::Configuration)
}

/// Prints it as TOML, secrets hidden.
pub fn print(path: Option<&Path>) -> Result<(), ExpectedError> {
    let config = load(path)?;
    print!("{}", config.to_toml());
    Ok(())
}
