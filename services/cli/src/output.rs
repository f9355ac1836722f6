//! Where a command's own words go: results to stdout, logs to a file where a terminal is drawn on.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::error::{Exit, ExpectedError, OrExit};

/// Sends logs to a file, a JSON object a line: bars and log lines do not share a terminal.
///
/// # Errors
/// Usage, where the file cannot be opened.
pub fn log_to_file(path: &Path) -> Result<(), ExpectedError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|error| {
        ExpectedError::new(Exit::RunFailed, format!("{}: {error}", path.display()))
    })?;
    let filter = EnvFilter::try_from_env("CAPSTAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(Mutex::new(file))
        .finish();
    tracing::subscriber::set_global_default(subscriber).or_exit(Exit::RunFailed)
}
