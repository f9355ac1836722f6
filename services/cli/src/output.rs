//! Output of commands: results on stdout, logs in a file while bars use the terminal.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use comfy_table::{Table, presets};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::error::{Exit, ExpectedError, OrExit};

/// Sends logs to a file, one JSON object per line: bars and log lines cannot share a terminal.
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

/// Prints one value as JSON on stdout.
///
/// # Errors
/// Run failed, for a value that JSON cannot represent.
pub fn json(value: &impl Serialize) -> Result<(), ExpectedError> {
    let text = serde_json::to_string_pretty(value).or_exit(Exit::RunFailed)?;
    println!("{text}");
    Ok(())
}

/// An empty table under these titles.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.iter().copied());
    table
}

/// Writes a file atomically: readers see all of it or nothing.
///
/// # Errors
/// Run failed, naming the file (a full disk, for example).
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ExpectedError> {
    let fail = |error: std::io::Error| {
        ExpectedError::new(Exit::RunFailed, format!("{}: {error}", path.display()))
    };
    let partial = beside(path);
    std::fs::write(&partial, bytes)
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&partial);
        })
        .map_err(fail)?;
    std::fs::rename(&partial, path).map_err(fail)
}

/// The temporary path of a file or folder until it is complete: beside it, hidden, unique to this
/// process.
pub fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}
