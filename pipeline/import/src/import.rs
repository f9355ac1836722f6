//! Turns the items of a source into pairs and rejects, in the order of the source.

use std::path::Path;

use capstan_crawl::normalize::{Normalizer, Picture};
use capstan_crawl::{Control, POLICY_VERSION, RejectReason};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{Pair, Reject, Text};
use capstan_plan::stage::{Import, ImportFormat};
use capstan_plan::task::Slice;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::item::{Candidate, Item, Sink, Source};
use crate::{Error, coco, folder, img2dataset, webdataset};

/// Pictures read and decoded ahead, and items waiting for that.
const AHEAD: usize = 16;

/// What became of one item of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// A picture with its texts.
    Pair(Box<Pair>),
    /// A picture, a row or a file that cannot be used.
    Reject(Reject),
}

/// Imports one slice of the source at `folder`, in its sorted order.
///
/// What the slices are made of: the pictures of a folder, else files. A picture's URL is the one
/// that the source states, else `file:<dataset>/<path>`; the file that names it stands for the
/// page, and its key there for the archive's.
///
/// Rejects: `record` (no text, no picture, a key twice, a file that cannot be read), `text_bytes`,
/// `bytes`, what decoding may say, and of rows that img2dataset failed on what it said.
///
/// # Errors
/// [`Error::Read`], [`Error::Format`]: the source is not there or of another form.
/// [`Error::Cancelled`], also where the receiver of `imported` is gone.
pub async fn import(
    config: &Import,
    folder: &Path,
    slice: Slice,
    control: &Control,
    imported: mpsc::Sender<Imported>,
) -> Result<(), Error> {
    let work = async {
        let (sender, mut items) = mpsc::channel(AHEAD);
        let reading = tokio::task::spawn_blocking({
            let (config, folder) = (config.clone(), folder.to_owned());
            move || read(&config, &folder, slice, &Sink::new(sender))
        });
        let normalizer = Normalizer::new(&config.storing);
        let items = futures::stream::poll_fn(move |context| items.poll_recv(context));
        let made = items.map(|item| make(config, &normalizer, control, item));
        let mut made = made.buffered(AHEAD);
        let mut done = 0;
        while let Some(one) = made.try_next().await? {
            imported.send(one).await.map_err(|_| Error::Cancelled)?;
            done += 1;
            control.report(done, 0);
        }
        reading.await.map_err(Error::Thread)?
    };
    let outcome = control.cancel.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(Error::Cancelled))
}

/// Gives every item of the slice to `sink`; blocks.
fn read(config: &Import, folder: &Path, slice: Slice, sink: &Sink) -> Result<(), Error> {
    match config.format {
        ImportFormat::CocoCaptions => coco::read(config, folder, slice, sink),
        ImportFormat::Img2dataset => img2dataset::read(config, folder, slice, sink),
        ImportFormat::Webdataset => webdataset::read(config, folder, slice, sink),
        ImportFormat::Folder => folder::read(config, folder, slice, sink),
    }
}

async fn make(
    config: &Import,
    normalizer: &Normalizer,
    control: &Control,
    item: Item,
) -> Result<Imported, Error> {
    let (candidate, source) = match item {
        Item::Candidate(candidate, source) => (candidate, source),
        Item::Refused(refused) => return Ok(Imported::Reject(refused)),
    };
    let refused = |reason: RejectReason| {
        let what = candidate.what();
        Imported::Reject(reason.into_reject(what, &candidate.page_url, true))
    };
    if let Err(reason) = check_texts(config, &candidate.texts) {
        return Ok(refused(reason));
    }
    let bytes = match load(source, config.max_image_bytes).await {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(refused(reason)),
    };
    Ok(match normalizer.normalize(bytes).await? {
        Ok(picture) => {
            let made = pair(config, *candidate, picture, control.now_ms());
            Imported::Pair(Box::new(made))
        }
        Err(reason) => refused(reason),
    })
}

fn check_texts(config: &Import, texts: &[String]) -> Result<(), RejectReason> {
    if texts.is_empty() {
        let detail = "no text belongs to the picture";
        return Err(RejectReason::new(RejectCode::Record, detail));
    }
    let cap = config.max_text_bytes;
    match texts.iter().find(|text| text.len() > cap) {
        Some(long) => {
            let detail = format!("text of {} bytes; at most {cap}", long.len());
            Err(RejectReason::new(RejectCode::TextBytes, detail))
        }
        None => Ok(()),
    }
}

async fn load(source: Source, cap: u64) -> Result<Vec<u8>, RejectReason> {
    let bytes = match source {
        Source::Bytes(bytes) => bytes,
        Source::File(path) => read_capped(&path, cap).await?,
    };
    if bytes.len() as u64 > cap {
        let detail = format!("more than {cap} bytes");
        return Err(RejectReason::new(RejectCode::Bytes, detail));
    }
    Ok(bytes)
}

/// At most a byte more than the cap.
async fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, RejectReason> {
    let unreadable = |error: std::io::Error| {
        RejectReason::new(RejectCode::Record, format!("cannot read the file: {error}"))
    };
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(RejectReason::new(RejectCode::Record, "no regular file"));
    }
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut capped = file.take(cap.saturating_add(1));
    capped.read_to_end(&mut bytes).await.map_err(unreadable)?;
    Ok(bytes)
}

fn pair(config: &Import, candidate: Candidate, picture: Picture, fetched_at_ms: i64) -> Pair {
    let pair_id = candidate.pair_id();
    let origin = config.origin();
    let original = candidate.original;
    let texts = candidate.texts.into_iter();
    Pair {
        pair_id,
        image: picture.bytes,
        width: picture.width,
        height: picture.height,
        original_width: original.width.unwrap_or(picture.original_width),
        original_height: original.height.unwrap_or(picture.original_height),
        sha256: original.sha256.unwrap_or(picture.sha256),
        phash: picture.phash,
        image_url: candidate.image_url,
        page_url: candidate.page_url,
        archive_ref: Some(candidate.key),
        fetched_at_ms,
        opt_out: Vec::new(),
        policy_version: POLICY_VERSION,
        licence: candidate.licence,
        attribution: None,
        texts: texts
            .map(|text| Text::new(&pair_id, origin, text))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
