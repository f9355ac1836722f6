//! `data/` objects on local disk, bounded by bytes.
//!
//! Names are digests of bytes and objects never change, so nothing is ever
//! stale. A cache that fails is slow, never wrong: its errors are logged and the
//! store is read instead.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use super::unique_beside;
use crate::error::{Error, Result};

/// A folder of objects.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where they lie.
    folder: PathBuf,
    /// How much of them.
    max_bytes: u64,
}

impl Cache {
    pub(crate) fn open(folder: &Path, max_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::local(folder, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            max_bytes,
        })
    }

    /// Whether an object of this size may lie here; one that would empty the cache may not.
    pub(crate) fn takes(&self, size_bytes: u64) -> bool {
        size_bytes <= self.max_bytes / 2
    }

    /// An object, or a range of it, if it lies here.
    pub(crate) async fn get(&self, name: &str, range: Option<Range<u64>>) -> Option<Bytes> {
        let path = self.folder.join(name);
        blocking(move || read(&path, range)).await?.ok()
    }

    /// Keeps an object and drops the least recently read beyond the bound.
    pub(crate) async fn put(&self, name: &str, bytes: &Bytes) {
        if !self.takes(bytes.len() as u64) {
            return;
        }
        let (folder, path, max_bytes) =
            (self.folder.clone(), self.folder.join(name), self.max_bytes);
        let bytes = bytes.clone();
        let kept = blocking(move || {
            write_whole(&path, &bytes)?;
            shrink(&folder, max_bytes)
        });
        if let Some(Err(error)) = kept.await {
            tracing::warn!(name, %error, "shard cache failed");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn read(path: &Path, range: Option<Range<u64>>) -> std::io::Result<Bytes> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    // The time of the last read decides what goes first.
    let _ = file.set_modified(SystemTime::now());
    let mut bytes = Vec::new();
    match range {
        None => file.read_to_end(&mut bytes)?,
        Some(range) => {
            file.seek(SeekFrom::Start(range.start))?;
            file.take(range.end - range.start).read_to_end(&mut bytes)?
        }
    };
    Ok(bytes.into())
}

/// Writes under a name of its own and renames: never half a file under `path`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged = unique_beside(path);
    let written = std::fs::write(&staged, bytes).and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    written
}

fn shrink(folder: &Path, max_bytes: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Another process may have dropped it meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        files.push((meta.modified()?, meta.len(), entry.path()));
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= max_bytes {
            break;
        }
        let _ = std::fs::remove_file(path);
        total -= len;
    }
    Ok(())
}
