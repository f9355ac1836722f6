//! The page of a run and its figures, from the store alone: `capstan report`, and the end of
//! `capstan demo`.
//!
//! ```text
//! run.json, commits, versions ─► Recorded ─► gather ─► Summary (summary.json)
//!                                               │ Gathered
//!                                               ▼
//!                           samples ─► RunReport ─► report.html
//! ```

mod gather;
mod recorded;
mod samples;
mod table;

use std::path::Path;

use capstan_dataset::Store;
use capstan_demoweb::Site;
use capstan_report::summary::Summary;

use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::write_whole;

pub use gather::{Gathered, Watched, gather};
pub use recorded::Recorded;
pub use samples::Heading;
pub use table::{comparison, sentence};

/// Name of the page within its folder.
pub const PAGE: &str = "report.html";
/// Name of the figures within the same folder.
pub const SUMMARY: &str = "summary.json";

/// Writes the page and the figures into a folder that is there.
///
/// - `judge`: the demo web, where the run crawled it.
///
/// # Errors
/// Run failed, where the store cannot be read or the folder cannot be written.
pub async fn write(
    store: &Store,
    gathered: &Gathered,
    judge: Option<&Site>,
    heading: Heading,
    folder: &Path,
) -> Result<(), ExpectedError> {
    let summary = serde_json::to_vec_pretty(&gathered.summary).or_exit(Exit::RunFailed)?;
    write_whole(&folder.join(SUMMARY), &summary)?;
    let page = samples::run_report(store, gathered, judge, heading).await?;
    capstan_report::write(&folder.join(PAGE), &page).or_exit(Exit::RunFailed)
}

/// Prints the figures on stdout: as JSON, or as a table with a sentence about the gain.
///
/// # Errors
/// Run failed, for figures that JSON cannot hold.
pub fn print(summary: &Summary, as_json: bool) -> Result<(), ExpectedError> {
    if as_json {
        return crate::output::json(summary);
    }
    if !summary.models.is_empty() {
        println!("{}", comparison(summary));
    }
    let sentence = sentence(summary);
    if !sentence.is_empty() {
        println!("{sentence}");
    }
    Ok(())
}
