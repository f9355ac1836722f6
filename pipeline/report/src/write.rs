//! Writes the page to the disk, atomically.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::page;
use crate::run_report::RunReport;

/// The page could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its folder cannot be written.
    #[error("the report {path} could not be written; is the folder there, writable, and not full?")]
    Write {
        /// The page's file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

/// Writes the page of a run to `path`: one HTML file that needs nothing else, neither
/// other files nor a network.
///
/// The write is atomic: a temporary file beside `path` is renamed over `path`.
///
/// # Errors
/// [`Error::Write`] if the folder is missing, read-only or full. The previous file is kept.
pub fn write(path: &Path, report: &RunReport) -> Result<(), Error> {
    let page = page::render(report).into_string();
    let beside = beside(path);
    let written = fs::File::create(&beside)
        .and_then(|mut file| {
            file.write_all(page.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        // Best effort: the error of the write is the one to report.
        let _ = fs::remove_file(&beside);
        Error::Write {
            path: path.to_owned(),
            source,
        }
    })
}

/// A name in the same folder, so that the rename stays within one file system.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
