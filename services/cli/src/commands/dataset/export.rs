//! `capstan dataset export`: a version as files that other programs read.

use std::path::Path;

use capstan_dataset::export::{self, Options};
use capstan_dataset::{Error, Store, versions};
use indicatif::{ProgressBar, ProgressStyle};

use super::found;
use crate::args;
use crate::error::{Exit, ExpectedError};
use crate::output;

/// The options of the flags.
pub fn options(layout: args::Layout, rows_per_file: usize) -> Options {
    let layout = match layout {
        args::Layout::Pictures => export::Layout::Pictures,
        args::Layout::Flat => export::Layout::Flat,
        args::Layout::Webdataset => export::Layout::Webdataset,
        args::Layout::Files => export::Layout::Files,
    };
    Options {
        layout,
        rows_per_file,
    }
}

/// Writes it, with a bar on a terminal.
///
/// # Errors
/// Usage, for a folder with something in it or a version that is not there; unavailable.
pub async fn export(
    store: &Store,
    dataset: &str,
    folder: &Path,
    options: Options,
    as_json: bool,
) -> Result<(), ExpectedError> {
    let version = found(versions::resolve(store, dataset).await)?;
    let bar = ProgressBar::new(0);
    let style = "{bar:40.cyan/black} {pos}/{len} rows, {per_sec}";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    let told = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let exported = export::export(store, &version, folder, options, &told).await;
    bar.finish_and_clear();
    let exported = match exported {
        Err(error @ Error::Target { .. }) => Err(ExpectedError::new(Exit::Usage, error)),
        other => found(other),
    }?;
    if as_json {
        return output::json(&exported);
    }
    println!(
        "{version} -> {}: {} pictures with {} texts in {} files, {} pictures left out",
        folder.display(),
        exported.pictures,
        exported.texts,
        exported.files,
        exported.left_out
    );
    Ok(())
}
