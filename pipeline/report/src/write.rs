//! Puts the page on the disk: whole or not at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::page;
use crate::run_report::RunReport;

/// The page could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its folder refused.
    #[error("the report {path} could not be written; is the folder there, writable, and not full?")]
    Write {
        /// The page's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Writes the page of a run to `path`: one HTML file that needs nothing else, neither
/// other files nor a network.
///
/// The file appears whole: it is written beside its place under a name of its own, then
/// renamed over whatever stood there.
///
/// # Errors
/// [`Error::Write`] where the folder is missing, read-only or full; what stood at `path`
/// is then as it was.
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
        // Best effort: the error that counts is the one above.
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
