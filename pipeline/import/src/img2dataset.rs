//! Parquet as img2dataset 1.47 writes it (`output_format=parquet`): the columns of its input
//! (`url`, `caption` ...), then `key, status, error_message, width, height, original_width,
//! original_height, exif, sha256`, and last the picture in a column named after its encoding
//! (`writer.py`, `downloader.py`). Rows whose `status` is not `success` have no picture.
//!
//! Picture and caption are needed; every other column may be missing.

use std::path::Path;

use capstan_crawl::RejectReason;
use capstan_plan::id::Digest;
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Import;
use capstan_plan::task::Slice;

use crate::Error;
use crate::item::{
    Candidate, Keys, Original, Sink, Source, file_url, files, image_url, texts, twice,
};
use crate::table::{Batch, Reader, column_of_bytes, guarded};

const EXPECTED: &str = "img2dataset Parquet";
/// Names of the picture's column, after `encode_format`.
const PICTURES: [&str; 4] = ["jpg", "png", "webp", "jpeg"];
const CAPTION: &str = "caption";
/// What is read beside the picture.
const COLUMNS: [&str; 8] = [
    "url",
    CAPTION,
    "key",
    "status",
    "error_message",
    "original_width",
    "original_height",
    "sha256",
];
const SUCCESS: &str = "success";

/// Rows of the slice's files, in the order of their names.
pub(crate) fn read(config: &Import, folder: &Path, slice: Slice, sink: &Sink) -> Result<(), Error> {
    let names = files(folder, "parquet")?;
    check_source(folder, &names)?;
    for (_, name) in (0..).zip(&names).filter(|(place, _)| slice.holds(*place)) {
        let read = guarded(|| picture_column(&folder.join(name)));
        match read {
            Ok(picture) => read_file(config, folder, name, picture, sink)?,
            Err(problem) => sink.refuse_file(name, &problem)?,
        }
    }
    Ok(())
}

/// Whether any file can be read as one of img2dataset's: else the whole source is another's, and
/// the first file says why.
fn check_source(folder: &Path, names: &[String]) -> Result<(), Error> {
    let foreign = |path: &Path, problem: String| Error::Format {
        path: path.to_owned(),
        expected: EXPECTED,
        problem,
    };
    let mut first = None;
    for name in names {
        let path = folder.join(name);
        match guarded(|| picture_column(&path)) {
            Ok(_) => return Ok(()),
            Err(problem) => first = first.or(Some(foreign(&path, problem))),
        }
    }
    Err(first.unwrap_or_else(|| foreign(folder, "no file in it ends in `.parquet`".to_owned())))
}

/// The column of pictures of a file that has all that is needed.
fn picture_column(path: &Path) -> Result<&'static str, String> {
    let schema = Reader::schema(path)?;
    let names = || {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    if schema.column_with_name(CAPTION).is_none() {
        return Err(format!("no column `{CAPTION}`; it has {}", names()));
    }
    let picture = column_of_bytes(&schema, &PICTURES);
    picture.ok_or_else(|| {
        format!(
            "no column `jpg`, `png` or `webp` of bytes; it has {}",
            names()
        )
    })
}

fn read_file(
    config: &Import,
    folder: &Path,
    name: &str,
    picture: &'static str,
    sink: &Sink,
) -> Result<(), Error> {
    let columns: Vec<&str> = COLUMNS.into_iter().chain([picture]).collect();
    let page_url = file_url(config, name);
    let mut keys = Keys::default();
    each_batch(&folder.join(name), name, &columns, sink, |batch, first| {
        for row in 0..batch.rows() {
            let numbered = (first + row as u64).to_string();
            let key = batch.text("key", row).unwrap_or(&numbered);
            let stated = batch.text("url", row);
            let reason = match bytes(batch, picture, row) {
                Ok(bytes) if keys.is_new(key) => {
                    let candidate = Candidate {
                        key: key.to_owned(),
                        image_url: image_url(config, stated, &format!("{name}/{key}")),
                        page_url: page_url.clone(),
                        texts: texts(batch.text(CAPTION, row)),
                        original: original(batch, row),
                        licence: None,
                    };
                    sink.candidate(candidate, Source::Bytes(bytes))?;
                    continue;
                }
                Ok(_) => twice(),
                Err(reason) => reason,
            };
            sink.refuse(reason, stated.unwrap_or(key), &page_url, true)?;
        }
        Ok(())
    })
}

/// Gives a file batch by batch, with the number of the batch's first row; what cannot be read of
/// the file is one reject.
pub(crate) fn each_batch(
    path: &Path,
    name: &str,
    columns: &[&str],
    sink: &Sink,
    mut take: impl FnMut(&Batch, u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = match guarded(|| Reader::open(path, columns)) {
        Ok(reader) => reader,
        Err(problem) => return sink.refuse_file(name, &problem),
    };
    let mut row = 0;
    loop {
        match guarded(|| reader.next()) {
            Ok(None) => return Ok(()),
            Ok(Some(batch)) => {
                take(&batch, row)?;
                row += batch.rows() as u64;
            }
            Err(problem) => {
                let lost = reader.rows().saturating_sub(row);
                let detail = format!("{lost} rows from row {row} on are lost: {problem}");
                return sink.refuse_file(name, &detail);
            }
        }
    }
}

fn bytes(batch: &Batch, picture: &str, row: usize) -> Result<Vec<u8>, RejectReason> {
    if let Some(reason) = failed(batch, row) {
        return Err(reason);
    }
    match batch.bytes(picture, row) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => Err(RejectReason::new(
            RejectCode::Record,
            "the row has no picture",
        )),
    }
}

/// Why img2dataset has no picture of a row, where it failed on it.
pub(crate) fn failed(batch: &Batch, row: usize) -> Option<RejectReason> {
    let status = batch.text("status", row).unwrap_or(SUCCESS);
    if status == SUCCESS {
        return None;
    }
    let message = batch.text("error_message", row).unwrap_or_default();
    let detail = format!("img2dataset: {status}: {message}");
    Some(RejectReason::new(code(status, message), detail))
}

/// Ours for its `status` and `error_message`: its own words, and Python's for what urllib met.
fn code(status: &str, message: &str) -> RejectCode {
    let says = |words: &str| message.to_lowercase().contains(words);
    match status {
        "failed_to_download" if says("x-robots-tag") => RejectCode::OptOut,
        "failed_to_download" if says("hash mismatch") => RejectCode::Upstream,
        "failed_to_download" if says("infinite loop") => RejectCode::Redirects,
        "failed_to_download" if says("http error") => RejectCode::HttpStatus,
        "failed_to_download" if says("timed out") => RejectCode::Timeout,
        "failed_to_download" if says("unknown url type") || says("no host given") => {
            RejectCode::Url
        }
        "failed_to_download" => RejectCode::Network,
        "failed_to_resize" if says("image too small") => RejectCode::TooSmall,
        "failed_to_resize" if says("image area too large") => RejectCode::Pixels,
        "failed_to_resize" if says("image decoding error") => RejectCode::Decode,
        _ => RejectCode::Upstream,
    }
}

fn original(batch: &Batch, row: usize) -> Original {
    let sha256 = batch.text("sha256", row).and_then(Digest::from_hex);
    Original {
        width: batch.pixels("original_width", row),
        height: batch.pixels("original_height", row),
        sha256: sha256.map(|digest| digest.0),
    }
}
