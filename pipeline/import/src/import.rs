//! Turns the items of a source into pairs and rejects, in the order of the source.

use std::io::Read;
use std::path::Path;

use capstan_crawl::normalize::{Normalizer, Picture};
use capstan_crawl::{Control, POLICY_VERSION, RejectReason};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{Pair, Reject, Text};
use capstan_plan::stage::{Import, ImportFormat, Texts};
use capstan_plan::task::Slice;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::item::{Candidate, Item, PictureSource, Sink};
use crate::roots::SourceFolder;
use crate::{Error, coco, folder, img2dataset, webdataset};

/// Pictures that are loaded and decoded ahead of the next one to leave, and items that wait for it.
const AHEAD: usize = 16;

/// What one item of a source becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// A picture with its texts; it may have none.
    Pair(Box<Pair>),
    /// A picture, a row or a file that is not used.
    Reject(Reject),
}

/// Imports one slice of a source, in its sorted order.
///
/// A slice is every n-th picture of a folder, or every n-th file of the other formats. A picture's URL
/// is the one that the source states, else `file:<dataset>/<path>`. The file that names the picture
/// takes the place of the page, and the picture's key in that file the place of the archive reference.
///
/// Rejects: `record` (no picture, a key twice, a file that cannot be read, and no text where the
/// stage requires one), `text_bytes`, `bytes`, the codes of decoding, and for rows that img2dataset
/// failed on the code of its reason.
///
/// - `imported`: must be bounded; a full channel pauses the reader.
///
/// # Errors
/// [`Error::Read`], [`Error::Format`]: the source is missing or has another format.
/// [`Error::Cancelled`], also where the receiver of `imported` is dropped.
pub async fn import(
    config: &Import,
    source: &SourceFolder,
    slice: Slice,
    control: &Control,
    imported: mpsc::Sender<Imported>,
) -> Result<(), Error> {
    let work = async {
        let (sender, mut items) = mpsc::channel(AHEAD);
        let reading = tokio::task::spawn_blocking({
            let (config, source) = (config.clone(), source.clone());
            move || read(&config, &source, slice, &Sink::new(sender))
        });
        let importer = Importer {
            config,
            source,
            normalizer: Normalizer::new(&config.storing),
            control,
        };
        let items = futures::stream::poll_fn(move |context| items.poll_recv(context));
        let mut rows = items.map(|item| importer.row(item)).buffered(AHEAD);
        let mut done = 0;
        while let Some(row) = rows.try_next().await? {
            imported.send(row).await.map_err(|_| Error::Cancelled)?;
            done += 1;
            control.report(done, 0);
        }
        reading.await.map_err(Error::Thread)?
    };
    let outcome = control.cancel.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(Error::Cancelled))
}

/// Sends every item of the slice to `sink`; blocks.
fn read(config: &Import, source: &SourceFolder, slice: Slice, sink: &Sink) -> Result<(), Error> {
    match config.format {
        ImportFormat::CocoCaptions => coco::read(config, source, slice, sink),
        ImportFormat::Img2dataset => img2dataset::read(config, source, slice, sink),
        ImportFormat::Webdataset => webdataset::read(config, source, slice, sink),
        ImportFormat::Folder => folder::read(config, source, slice, sink),
    }
}

/// Makes rows of items.
struct Importer<'a> {
    config: &'a Import,
    source: &'a SourceFolder,
    normalizer: Normalizer,
    control: &'a Control,
}

impl Importer<'_> {
    async fn row(&self, item: Item) -> Result<Imported, Error> {
        let (candidate, picture) = match item {
            Item::Candidate(candidate, picture) => (candidate, picture),
            Item::Reject(reject) => return Ok(Imported::Reject(reject)),
        };
        let reject = |reason: RejectReason| {
            let what = candidate.what();
            Imported::Reject(reason.into_reject(what, &candidate.page_url, true))
        };
        if let Err(reason) = check_texts(self.config, &candidate.texts) {
            return Ok(reject(reason));
        }
        let bytes = match self.load(picture).await? {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(reject(reason)),
        };
        Ok(match self.normalizer.normalize(bytes).await? {
            Ok(picture) => {
                let fetched_at_ms = self.control.now_ms();
                let pair = pair(self.config, *candidate, picture, fetched_at_ms);
                Imported::Pair(Box::new(pair))
            }
            Err(reason) => reject(reason),
        })
    }

    /// The encoded bytes of a picture; the inner result says why they are not used.
    async fn load(&self, picture: PictureSource) -> Result<Result<Vec<u8>, RejectReason>, Error> {
        let cap = self.config.max_image_bytes;
        let bytes = match picture {
            PictureSource::Bytes(bytes) => Ok(bytes),
            PictureSource::File(path) => {
                let source = self.source.clone();
                let reading = tokio::task::spawn_blocking(move || read_capped(&source, &path, cap));
                reading.await.map_err(Error::Thread)?
            }
        };
        Ok(bytes.and_then(|bytes| {
            if bytes.len() as u64 > cap {
                let detail = format!("more than {cap} bytes");
                return Err(RejectReason::new(RejectCode::Bytes, detail));
            }
            Ok(bytes)
        }))
    }
}

/// Reads at most one byte more than `cap`, so that the caller can see the excess.
fn read_capped(source: &SourceFolder, path: &Path, cap: u64) -> Result<Vec<u8>, RejectReason> {
    let read = || {
        let mut bytes = Vec::new();
        let file = source.open(path)?;
        file.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| {
        RejectReason::new(RejectCode::Record, format!("cannot read the file: {error}"))
    })
}

fn check_texts(config: &Import, texts: &[String]) -> Result<(), RejectReason> {
    if texts.is_empty() && config.texts == Texts::Required {
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
