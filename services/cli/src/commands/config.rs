//! `capstan config`: the effective configuration.

use crate::error::ExpectedError;
use crate::settings::Settings;

/// Prints it as TOML, secrets hidden.
///
/// # Errors
/// Configuration, naming file, section and key.
pub fn print(settings: &Settings) -> Result<(), ExpectedError> {
    print!("{}", settings.load()?.to_toml());
    Ok(())
}
