//! What a reader yields: candidates for pairs, and rejects.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use capstan_crawl::{RejectReason, canonical, collapse_whitespace};
use capstan_plan::id::{Digest, PairId};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::Reject;
use capstan_plan::stage::Import;
use tokio::sync::mpsc;

use crate::Error;

/// One item of a source.
pub(crate) enum Item {
    /// A picture that may become a pair, and where its bytes are.
    Candidate(Box<Candidate>, PictureSource),
    /// A picture, a row or a file that is not used.
    Reject(Reject),
}

/// A picture with its texts, not yet decoded.
pub(crate) struct Candidate {
    /// Its key within the source, or within the file that names it.
    pub(crate) key: String,
    /// Its URL, see [`image_url`].
    pub(crate) image_url: String,
    /// The file that names it.
    pub(crate) page_url: String,
    /// As [`texts`] returns them; may be empty.
    pub(crate) texts: Vec<String>,
    /// What the source states about the picture as it was downloaded.
    pub(crate) original: Original,
    /// Licence where stated.
    pub(crate) licence: Option<String>,
}

/// Where the encoded bytes of a picture are.
pub(crate) enum PictureSource {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file of the source.
    File(PathBuf),
}

/// Facts about a picture before the program that wrote the source resized it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Original {
    pub(crate) width: Option<u32>,
    pub(crate) height: Option<u32>,
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Candidate {
    /// Derived from key and file where the source states a URL, because one URL may be in many rows.
    pub(crate) fn pair_id(&self) -> PairId {
        let key = match self.image_url.starts_with(FILE_SCHEME) {
            true => &self.image_url,
            false => &self.key,
        };
        PairId::new(key, &self.page_url)
    }

    /// The name of the picture in a reject.
    pub(crate) fn what(&self) -> &str {
        match self.image_url.starts_with(FILE_SCHEME) {
            true => &self.key,
            false => &self.image_url,
        }
    }
}

/// Scheme of the URLs that this room makes. A source's own URLs are http(s) once canonical.
const FILE_SCHEME: &str = "file:";

/// The URL of a file of the source: `file:<dataset>/<path>`.
pub(crate) fn file_url(config: &Import, path: &str) -> String {
    format!("{FILE_SCHEME}{}/{path}", config.dataset)
}

/// The canonical form of the URL that a source states, else [`file_url`] of `path`.
pub(crate) fn image_url(config: &Import, stated: Option<&str>, path: &str) -> String {
    let url = stated.and_then(|url| canonical(None, url).ok());
    url.map_or_else(|| file_url(config, path), String::from)
}

/// Texts as they are stored: whitespace collapsed, none empty, none twice.
pub(crate) fn texts<'a>(raw: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for raw in raw {
        let text = collapse_whitespace([raw]);
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Where a reader sends its items.
pub(crate) struct Sink(mpsc::Sender<Item>);

impl Sink {
    pub(crate) fn new(sender: mpsc::Sender<Item>) -> Self {
        Self(sender)
    }

    /// Sends a picture; blocks while the pictures before it are decoded.
    pub(crate) fn candidate(
        &self,
        candidate: Candidate,
        picture: PictureSource,
    ) -> Result<(), Error> {
        self.send(Item::Candidate(Box::new(candidate), picture))
    }

    /// Sends a reject.
    ///
    /// - `what`: the picture, row or record.
    /// - `page_url`: the file that names it; may be empty.
    pub(crate) fn reject(
        &self,
        reason: RejectReason,
        what: &str,
        page_url: &str,
        is_image: bool,
    ) -> Result<(), Error> {
        self.send(Item::Reject(reason.into_reject(what, page_url, is_image)))
    }

    /// Rejects a file that cannot be read, or not to its end.
    pub(crate) fn reject_file(&self, name: &str, detail: &str) -> Result<(), Error> {
        let reason = RejectReason::new(RejectCode::Record, detail);
        self.reject(reason, name, "", false)
    }

    /// Fails with [`Error::Cancelled`] where the receiver is dropped.
    fn send(&self, item: Item) -> Result<(), Error> {
        self.0.blocking_send(item).map_err(|_| Error::Cancelled)
    }
}

/// The keys of a file seen so far, eight bytes of hash each, which bounds the memory of large files.
#[derive(Default)]
pub(crate) struct Keys(HashSet<u64>);

impl Keys {
    /// Records `key` and returns whether it was not there yet.
    pub(crate) fn insert(&mut self, key: &str) -> bool {
        self.0.insert(Digest::of(key.as_bytes()).prefix_u64())
    }
}

/// The reason of a row whose key another row of the file has.
pub(crate) fn duplicate_key() -> RejectReason {
    RejectReason::new(RejectCode::Record, "another row of the file has its key")
}

/// Names of the files directly in `folder` with this extension, sorted. Names that begin with `.` or
/// `_` are skipped, as readers of Parquet folders skip them.
pub(crate) fn file_names(folder: &Path, extension: &str) -> Result<Vec<String>, Error> {
    let unreadable = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let has_extension = Path::new(name)
            .extension()
            .is_some_and(|found| found == extension);
        if has_extension && !name.starts_with(['.', '_']) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
