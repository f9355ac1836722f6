//! Imports annotated pairs: COCO captions JSON beside a folder of pictures.

mod coco;

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use capstan_plan::id::PairId;
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{Origin, Pair, Reject, Text};
use capstan_plan::stage::Import;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::net::Refusal;
use crate::pages::reject;
use crate::picture::{Picture, Studio};
use crate::{Control, Error, POLICY_VERSION};
use coco::Record;

/// The file of captions, and the page URL of its pairs.
const CAPTIONS: &str = "captions.json";
/// The folder of pictures beside it.
const IMAGES: &str = "images";
/// Pictures read and decoded ahead.
const AHEAD: usize = 16;

/// Imports `folder/captions.json` (COCO captions form) with the pictures of
/// `folder/images`: one pair per picture, with all of its captions as human texts, to
/// `pairs` in the order of the file.
///
/// A pair's image URL is the key `file:<dataset>/<file_name>`, its page URL
/// `captions.json`. Of a file as large as COCO's own, records stay in memory; pictures
/// are read one by one.
///
/// Rejects: `record` (no such file, a name outside of the folder, no caption, a caption
/// without its picture, a field missing or of another type), `text_bytes`, `bytes`, and
/// what decoding may say.
///
/// # Errors
/// [`Error::Read`], [`Error::Format`]: `captions.json` is not there or no COCO captions
/// file. [`Error::Cancelled`], also where the receiver of `pairs` is gone.
pub async fn import_coco(
    config: &Import,
    folder: &Path,
    control: &Control,
    pairs: mpsc::Sender<Pair>,
) -> Result<Vec<Reject>, Error> {
    let work = async {
        let path = folder.join(CAPTIONS);
        let read = tokio::task::spawn_blocking(move || coco::read(&path));
        let (records, refused) = read.await.map_err(Error::Thread)??;
        let mut rejects: Vec<Reject> = refused
            .into_iter()
            .map(|refused| reject(refused.refusal, &refused.what, CAPTIONS, refused.is_image))
            .collect();
        let total = records.len() as u64;
        let studio = Studio::new(&config.storing);
        let images = folder.join(IMAGES);
        let made = futures::stream::iter(unique(records))
            .map(|(record, is_first)| load(config, &studio, &images, control, record, is_first));
        let mut made = made.buffered(AHEAD);
        let mut done = 0;
        while let Some((name, outcome)) = made.try_next().await? {
            match outcome {
                Ok(pair) => pairs.send(*pair).await.map_err(|_| Error::Cancelled)?,
                Err(refusal) => rejects.push(reject(refusal, &name, CAPTIONS, true)),
            }
            done += 1;
            control.report(done, total);
        }
        Ok(rejects)
    };
    let outcome = control.cancel.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(Error::Cancelled))
}

/// Each record with whether it is the first of its file name.
fn unique(records: Vec<Record>) -> Vec<(Record, bool)> {
    let mut names = HashSet::new();
    let records = records.into_iter();
    records
        .map(|record| {
            let is_first = names.insert(record.file_name.clone());
            (record, is_first)
        })
        .collect()
}

async fn load(
    config: &Import,
    studio: &Studio,
    images: &Path,
    control: &Control,
    record: Record,
    is_first: bool,
) -> Result<(String, Result<Box<Pair>, Refusal>), Error> {
    let name = record.file_name.clone();
    let checked = check(config, &record, is_first).and_then(|()| inside(images, &name));
    let path = match checked {
        Ok(path) => path,
        Err(refusal) => return Ok((name, Err(refusal))),
    };
    let bytes = match read_capped(&path, config.max_image_bytes).await {
        Ok(bytes) => bytes,
        Err(refusal) => return Ok((name, Err(refusal))),
    };
    let picture = studio.make(bytes).await?;
    let outcome = picture.map(|picture| Box::new(pair(config, record, picture, control.now_ms())));
    Ok((name, outcome))
}

fn check(config: &Import, record: &Record, is_first: bool) -> Result<(), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(RejectCode::Record, detail));
    if !is_first {
        return refuse("another record names the same file");
    }
    if record.captions.is_empty() {
        return refuse("no annotation has a caption for it");
    }
    let cap = config.max_text_bytes;
    match record.captions.iter().find(|caption| caption.len() > cap) {
        Some(long) => {
            let detail = format!("caption of {} bytes; at most {cap}", long.len());
            Err(Refusal::new(RejectCode::TextBytes, detail))
        }
        None => Ok(()),
    }
}

/// The path of a file name, which must not lead out of the folder.
fn inside(images: &Path, name: &str) -> Result<PathBuf, Refusal> {
    let is_plain = |part| matches!(part, Component::Normal(_));
    let path = Path::new(name);
    if name.is_empty() || !path.components().all(is_plain) {
        let detail = "file_name must be a plain path within `images`";
        return Err(Refusal::new(RejectCode::Record, detail));
    }
    Ok(images.join(path))
}

async fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, Refusal> {
    let unreadable = |error: std::io::Error| {
        Refusal::new(RejectCode::Record, format!("cannot read the file: {error}"))
    };
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Refusal::new(RejectCode::Record, "no regular file"));
    }
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(cap + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(unreadable)?;
    if bytes.len() as u64 > cap {
        return Err(Refusal::new(
            RejectCode::Bytes,
            format!("more than {cap} bytes"),
        ));
    }
    Ok(bytes)
}

fn pair(config: &Import, record: Record, picture: Picture, fetched_at_ms: i64) -> Pair {
    let image_url = format!("file:{}/{}", config.dataset, record.file_name);
    let pair_id = PairId::new(&image_url, CAPTIONS);
    let captions = record.captions.into_iter();
    Pair {
        pair_id,
        image: picture.bytes,
        width: picture.width,
        height: picture.height,
        original_width: picture.original_width,
        original_height: picture.original_height,
        sha256: picture.sha256,
        phash: picture.phash,
        image_url,
        page_url: CAPTIONS.to_owned(),
        archive_ref: Some(record.file_name),
        fetched_at_ms,
        opt_out: Vec::new(),
        policy_version: POLICY_VERSION,
        licence: record.licence,
        attribution: None,
        texts: captions
            .map(|text| Text::new(&pair_id, Origin::Human, text))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
