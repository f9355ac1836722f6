//! What readers of sources give.

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
    Candidate(Box<Candidate>, Source),
    /// What can be none.
    Refused(Reject),
}

/// A picture with its texts, not yet looked at.
pub(crate) struct Candidate {
    /// Its key within the source, or within the file that names it.
    pub(crate) key: String,
    /// Where it came from, see [`image_url`].
    pub(crate) image_url: String,
    /// The file that names it.
    pub(crate) page_url: String,
    /// Whitespace collapsed, none empty, none twice: see [`texts`].
    pub(crate) texts: Vec<String>,
    /// What the source says of the picture as it was downloaded.
    pub(crate) original: Original,
    /// Licence where stated.
    pub(crate) licence: Option<String>,
}

/// Where the encoded bytes of a picture are.
pub(crate) enum Source {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file.
    File(PathBuf),
}

/// A picture before whoever made the source shrunk it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Original {
    pub(crate) width: Option<u32>,
    pub(crate) height: Option<u32>,
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Candidate {
    /// Made of key and file where the source states a URL, for it may name one in many rows.
    pub(crate) fn pair_id(&self) -> PairId {
        let is_ours = self.image_url.starts_with(OURS);
        let key = if is_ours { &self.image_url } else { &self.key };
        PairId::new(key, &self.page_url)
    }

    /// How a reject calls it.
    pub(crate) fn what(&self) -> &str {
        match self.image_url.starts_with(OURS) {
            true => &self.key,
            false => &self.image_url,
        }
    }
}

/// How URLs of our own begin; canonical ones of a source are http(s).
const OURS: &str = "file:";

/// The URL of a file of the source: `file:<dataset>/<path>`.
pub(crate) fn file_url(config: &Import, path: &str) -> String {
    format!("{OURS}{}/{path}", config.dataset)
}

/// The canonical form of a URL that a source states; without a usable one that of `path`.
pub(crate) fn image_url(config: &Import, stated: Option<&str>, path: &str) -> String {
    let url = stated.and_then(|url| canonical(None, url).ok());
    url.map_or_else(|| file_url(config, path), String::from)
}

/// Texts as they are stored.
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

/// Takes items; its end hears of it when nobody wants more.
pub(crate) struct Sink(mpsc::Sender<Item>);

impl Sink {
    pub(crate) fn new(sender: mpsc::Sender<Item>) -> Self {
        Self(sender)
    }

    /// Blocks while those before are decoded.
    pub(crate) fn candidate(&self, candidate: Candidate, source: Source) -> Result<(), Error> {
        self.send(Item::Candidate(Box::new(candidate), source))
    }

    /// A picture, or another part of the source, that cannot be used.
    pub(crate) fn refuse(
        &self,
        reason: RejectReason,
        what: &str,
        page_url: &str,
        is_image: bool,
    ) -> Result<(), Error> {
        self.send(Item::Refused(reason.into_reject(what, page_url, is_image)))
    }

    /// A file that cannot be read to its end.
    pub(crate) fn refuse_file(&self, name: &str, detail: &str) -> Result<(), Error> {
        let reason = RejectReason::new(RejectCode::Record, detail);
        self.refuse(reason, name, "", false)
    }

    fn send(&self, item: Item) -> Result<(), Error> {
        self.0.blocking_send(item).map_err(|_| Error::Cancelled)
    }
}

/// Keys of a file that were met: eight bytes each, so that a file of many rows costs little.
#[derive(Default)]
pub(crate) struct Keys(HashSet<u64>);

impl Keys {
    /// Whether it is the first of its name.
    pub(crate) fn is_new(&mut self, key: &str) -> bool {
        self.0.insert(Digest::of(key.as_bytes()).prefix_u64())
    }
}

/// The reason of a key that stands twice.
pub(crate) fn twice() -> RejectReason {
    RejectReason::new(RejectCode::Record, "another row of the file has its key")
}

/// Files directly in `folder` with this ending, by name; names that begin with `.` or `_` are
/// left out, as readers of Parquet folders do.
pub(crate) fn files(folder: &Path, ending: &str) -> Result<Vec<String>, Error> {
    let unreadable = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_one = Path::new(name)
            .extension()
            .is_some_and(|found| found == ending);
        if is_one && !name.starts_with(['.', '_']) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
