//! Exports a version as Parquet, WebDataset tars, or a folder of pictures.
//!
//! An export holds what training would use: the pictures that curation keeps, with the texts that
//! curation and the filter keep. Human texts have no verdict and are always exported. A picture
//! that never had a text is exported with an empty caption, as img2dataset writes it. A picture
//! whose texts were all dropped or refused is left out.
//!
//! ```text
//! version ─► view, a row group at a time ─► batches ─► .name.<n>.tmp/00000.parquet ... ─► name/
//! ```
//! The folder appears complete or not at all. Memory: a row group and a batch of its rows.

use std::path::Path;

use capstan_plan::commit::VersionRef;
use capstan_plan::id::ModelDigest;
use capstan_plan::row::{Origin, Pair, Text, Verdict};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::{Pixels, blocking};
use crate::folders::Staged;
use crate::store::Store;
use crate::versions;
use crate::view::{View, ViewRow};

mod columns;
mod files;
mod parquet;
mod tar;

/// The file that describes an export. Readers of Parquet folders ignore files that begin with `_`.
pub const ABOUT: &str = "_export.json";

/// The rows of an export and the format of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Parquet, a row per picture: `texts` is a list of text, origin and scores.
    Pictures,
    /// Parquet, a row per kept (picture, text), with the columns of img2dataset.
    Flat,
    /// Tar files, `<key>.jpg`, `<key>.txt` and `<key>.json` per kept (picture, text).
    Webdataset,
    /// A folder of pictures, `<name>.jpg` and beside it `<name>.txt` with a line per kept text.
    Files,
}

/// How a version is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The layout.
    pub layout: Layout,
    /// Most rows of a file; 0 counts as 1. Keys have as many row digits as its largest row number.
    pub rows_per_file: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            layout: Layout::Pictures,
            rows_per_file: 10_000,
        }
    }
}

/// The size of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Exported {
    /// Pictures.
    pub pictures: u64,
    /// Texts.
    pub texts: u64,
    /// Pictures left out: curation drops them, or they have texts and none is kept.
    pub left_out: u64,
    /// Files, without `_export.json`.
    pub files: u64,
    /// Their size.
    pub size_bytes: u64,
}

/// A picture with its kept texts.
struct Row {
    pair: Pair,
    texts: Vec<Kept>,
}

/// A text of an export.
struct Kept {
    text: Text,
    /// The verdict; `None` for human texts and in shards without verdicts.
    verdict: Option<Verdict>,
    /// The captioner, of a synthetic text.
    writer: Option<ModelDigest>,
}

/// The writer of a layout.
enum Sink {
    Parquet(Box<parquet::Folder>),
    Tar(tar::Folder),
    Files(files::Folder),
}

/// `_export.json`.
#[derive(Serialize)]
struct About<'a> {
    version: String,
    layout: Layout,
    #[serde(flatten)]
    exported: &'a Exported,
}

/// Writes a version into `folder`, which must be absent or empty.
///
/// - `progress`: called with the rows of the version read so far, and all of them.
///
/// # Errors
/// [`Error::Target`] for a folder with something in it; [`Error::Local`], [`Error::StoreFull`];
/// those of [`versions::parts`] and of the view.
pub async fn export(
    store: &Store,
    version: &VersionRef,
    folder: &Path,
    options: Options,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Exported> {
    check_target(folder)?;
    let parts = versions::parts(store, version).await?;
    let total = parts.iter().map(|part| part.base.rows).sum();
    let staged = Staged::beside(folder)?;
    let mut sink = Sink::new(staged.path(), options);
    let mut exported = Exported::default();
    let mut done = 0;
    for part in &parts {
        let mut view = View::open(store, part, Pixels::Read).await?;
        while let Some(rows) = view.next().await? {
            done += rows.len() as u64;
            let kept = kept_rows(rows, &view, &mut exported);
            sink = blocking("export", move || {
                sink.write(kept)?;
                Ok(sink)
            })
            .await?;
            progress(done, total);
        }
    }
    let (files, size_bytes) = blocking("export", move || sink.finish()).await?;
    (exported.files, exported.size_bytes) = (files, size_bytes);
    write_about(staged.path(), version, options.layout, &exported)?;
    staged.appear(folder)?;
    Ok(exported)
}

/// Refuses a folder that holds anything.
fn check_target(folder: &Path) -> Result<()> {
    let refuse = |reason: String| Error::Target {
        path: folder.display().to_string(),
        reason,
    };
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refuse(error.to_string())),
    };
    match entries.next() {
        None => Ok(()),
        Some(Ok(entry)) => {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            Err(refuse(format!(
                "it holds something else ({name}); name a new or empty folder"
            )))
        }
        Some(Err(error)) => Err(refuse(error.to_string())),
    }
}

fn kept_rows(rows: Vec<ViewRow>, view: &View, exported: &mut Exported) -> Vec<Row> {
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let texts = kept_texts(&row, view);
        let has_texts = !row.pair.texts.is_empty() || !row.synthetic.is_empty();
        if !row.keep || (texts.is_empty() && has_texts) {
            exported.left_out += 1;
            continue;
        }
        exported.pictures += 1;
        exported.texts += texts.len() as u64;
        kept.push(Row {
            pair: row.pair,
            texts,
        });
    }
    kept
}

/// The kept texts of a picture: found ones in the order of the base file, then synthetic ones.
fn kept_texts(row: &ViewRow, view: &View) -> Vec<Kept> {
    let written = row.synthetic.iter().filter(|_| row.keep);
    let texts = row.curated_texts().chain(written);
    let kept = texts.filter_map(|text| {
        let verdict = row.verdict(&text.text_id);
        let is_kept = text.origin == Origin::Human
            || !view.has_verdicts()
            || verdict.is_some_and(|verdict| verdict.kept);
        is_kept.then(|| Kept {
            text: text.clone(),
            verdict: verdict.cloned(),
            writer: view
                .captioner()
                .filter(|_| text.origin == Origin::Synthetic),
        })
    });
    kept.collect()
}

fn write_about(
    folder: &Path,
    version: &VersionRef,
    layout: Layout,
    exported: &Exported,
) -> Result<()> {
    let path = folder.join(ABOUT);
    let about = About {
        version: version.to_string(),
        layout,
        exported,
    };
    let json = serde_json::to_vec_pretty(&about).map_err(|error| Error::Rows {
        what: ABOUT.to_owned(),
        reason: error.to_string(),
    })?;
    std::fs::write(&path, json).map_err(|error| Error::local(&path, error))
}

impl Sink {
    fn new(folder: &Path, options: Options) -> Self {
        let rows = options.rows_per_file.max(1);
        match options.layout {
            Layout::Webdataset => Self::Tar(tar::Folder::new(folder, rows)),
            Layout::Files => Self::Files(files::Folder::new(folder, rows)),
            layout => Self::Parquet(Box::new(parquet::Folder::new(folder, rows, layout))),
        }
    }

    fn write(&mut self, rows: Vec<Row>) -> Result<()> {
        match self {
            Self::Parquet(folder) => folder.write(&rows),
            Self::Tar(folder) => folder.write(&rows),
            Self::Files(folder) => folder.write(&rows),
        }
    }

    /// Number of files and their size.
    fn finish(self) -> Result<(u64, u64)> {
        match self {
            Self::Parquet(folder) => folder.finish(),
            Self::Tar(folder) => folder.finish(),
            Self::Files(folder) => Ok(folder.finish()),
        }
    }
}

/// Every (picture, text) of a row; the picture alone if it has no text.
fn pairs(row: &Row) -> impl Iterator<Item = (&Row, Option<&Kept>)> {
    let alone = row.texts.is_empty().then_some((row, None));
    let with_text = row.texts.iter().map(move |kept| (row, Some(kept)));
    alone.into_iter().chain(with_text)
}

/// The key of a row in the form of img2dataset: five digits of the file, then those of the row.
fn key(file: u64, row: usize, rows_per_file: usize) -> String {
    let digits = (rows_per_file - 1).max(1).ilog10() as usize + 1;
    format!("{file:05}{row:0digits$}")
}

#[cfg(test)]
mod tests;
