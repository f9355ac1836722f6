//! Parquet as img2dataset 1.47 writes it (`output_format=parquet`): the columns of its input
//! (`url`, `caption` ...), then `key, status, error_message, width, height, original_width,
//! original_height, exif, sha256`, and last the picture in a column named after its encoding
//! (`writer.py`, `downloader.py`). Rows whose `status` is not `success` have no picture.
//!
//! Only the picture's column must be there. Without a caption a picture is a row without a text;
//! with `texts = "required"` the column `caption` must be there as well.

use std::path::Path;

use capstan_crawl::RejectReason;
use capstan_plan::id::Digest;
use capstan_plan::reject::RejectCode;
use capstan_plan::stage::{Import, Texts};
use capstan_plan::task::Slice;

use crate::Error;
use crate::item::{
    Candidate, Keys, Original, PictureSource, Sink, duplicate_key, file_names, file_url, image_url,
    texts,
};
use crate::roots::SourceFolder;
use crate::table::{Batch, Reader, column_of_bytes, guarded};

const EXPECTED: &str = "Parquet of img2dataset";
/// Names of the picture's column: the values of img2dataset's `encode_format`.
const PICTURES: [&str; 4] = ["jpg", "png", "webp", "jpeg"];
const CAPTION: &str = "caption";
/// Columns that are read beside the picture.
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

/// Sends the rows of the slice's files, in the order of the file names.
pub(crate) fn read(
    config: &Import,
    source: &SourceFolder,
    slice: Slice,
    sink: &Sink,
) -> Result<(), Error> {
    let names = file_names(source.path(), "parquet")?;
    check_source(config, source, &names)?;
    for (_, name) in (0..).zip(&names).filter(|(place, _)| slice.holds(*place)) {
        match guarded(|| picture_column(config, source, name)) {
            Ok(picture) => read_file(config, source, name, picture, sink)?,
            Err(problem) => sink.reject_file(name, &problem)?,
        }
    }
    Ok(())
}

/// Fails where no file is one of img2dataset's: then the source as a whole has another format. The
/// error is that of the first file.
fn check_source(config: &Import, source: &SourceFolder, names: &[String]) -> Result<(), Error> {
    let foreign = |path: &Path, problem: String| Error::Format {
        path: path.to_owned(),
        expected: EXPECTED,
        problem,
    };
    let mut first = None;
    for name in names {
        match guarded(|| picture_column(config, source, name)) {
            Ok(_) => return Ok(()),
            Err(problem) => {
                first = first.or_else(|| Some(foreign(&source.path().join(name), problem)));
            }
        }
    }
    let problem = "no file in it ends in `.parquet`".to_owned();
    Err(first.unwrap_or_else(|| foreign(source.path(), problem)))
}

/// The column of pictures of a file that has every column that is needed.
fn picture_column(
    config: &Import,
    source: &SourceFolder,
    name: &str,
) -> Result<&'static str, String> {
    let schema = Reader::schema(source, &source.path().join(name))?;
    let names = || {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    if config.texts == Texts::Required && schema.column_with_name(CAPTION).is_none() {
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
    source: &SourceFolder,
    name: &str,
    picture: &'static str,
    sink: &Sink,
) -> Result<(), Error> {
    let columns: Vec<&str> = COLUMNS.into_iter().chain([picture]).collect();
    let page_url = file_url(config, name);
    let mut keys = Keys::default();
    each_batch(source, name, &columns, sink, |batch, first| {
        for row in 0..batch.rows() {
            let number = (first + row as u64).to_string();
            let key = batch.text("key", row).unwrap_or(&number);
            let stated = batch.text("url", row);
            let reason = match bytes(batch, picture, row) {
                Ok(bytes) if keys.insert(key) => {
                    let candidate = Candidate {
                        key: key.to_owned(),
                        image_url: image_url(config, stated, &format!("{name}/{key}")),
                        page_url: page_url.clone(),
                        texts: texts(batch.text(CAPTION, row)),
                        original: original(batch, row),
                        licence: None,
                    };
                    sink.candidate(candidate, PictureSource::Bytes(bytes))?;
                    continue;
                }
                Ok(_) => duplicate_key(),
                Err(reason) => reason,
            };
            sink.reject(reason, stated.unwrap_or(key), &page_url, true)?;
        }
        Ok(())
    })
}

/// Calls `take` with each batch of a file and the number of its first row. What cannot be read of
/// the file becomes one reject.
pub(crate) fn each_batch(
    source: &SourceFolder,
    name: &str,
    columns: &[&str],
    sink: &Sink,
    mut take: impl FnMut(&Batch, u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = match guarded(|| Reader::open(source, &source.path().join(name), columns)) {
        Ok(reader) => reader,
        Err(problem) => return sink.reject_file(name, &problem),
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
                return sink.reject_file(name, &detail);
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

/// Why img2dataset has no picture for a row; `None` where it has one.
pub(crate) fn failed(batch: &Batch, row: usize) -> Option<RejectReason> {
    let status = batch.text("status", row).unwrap_or(SUCCESS);
    if status == SUCCESS {
        return None;
    }
    let message = batch.text("error_message", row).unwrap_or_default();
    let detail = format!("img2dataset: {status}: {message}");
    Some(RejectReason::new(code(status, message), detail))
}

/// The code for img2dataset's `status` and `error_message`. The messages are img2dataset's own, or
/// those of Python's urllib.
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
