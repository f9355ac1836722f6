//! The cache of `data/` objects on local disk, bounded by bytes.
//!
//! Names are digests of bytes, so a cached file is never stale. Its digest is checked whenever the
//! file is read whole, and when this process first reads a range of it. Processes may share the
//! folder: files appear by rename, and a file that another process dropped is read from the store.
//! A failing disk makes reads slower, not wrong: errors are logged, and for a while readers of a
//! range do not fetch the whole object.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use capstan_plan::id::Digest;
use tokio::time::Instant;

use super::unique_beside;
use crate::error::{Error, Result};

/// Age at which the staging files of killed processes are removed.
const STAGED_FOR: Duration = Duration::from_secs(3_600);
/// Most digests in a set.
const REMEMBERED: usize = 100_000;
/// How long after a failed write readers of a range fetch no whole object.
pub(super) const REST: Duration = Duration::from_secs(60);

/// A cache folder.
#[derive(Debug)]
pub(crate) struct Cache {
    /// The folder.
    folder: PathBuf,
    /// Bound of its size.
    max_bytes: u64,
    /// Files whose digests this process has checked.
    verified: Mutex<HashSet<Digest>>,
    /// Objects whose bytes in the store do not have their digest; they are not cached.
    foreign: Mutex<HashSet<Digest>>,
    /// The time of the last write, if it failed.
    failed_at: Mutex<Option<Instant>>,
    /// Objects being fetched, so that each is fetched once.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// A place in the queue of the readers of one object.
pub(crate) struct Turn {
    cache: Arc<Cache>,
    digest: Digest,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Turn {
    /// Waits until no other reader fetches the object.
    pub(crate) async fn take(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lock.lock().await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut fetching = lock(&self.cache.fetching);
        // Two are left, in the map and in this turn: no other reader waits.
        if Arc::strong_count(&self.lock) <= 2 {
            fetching.remove(&self.digest);
        }
    }
}

/// The digest in the path of a cacheable object.
pub(crate) fn digest_of(path: &str) -> Option<Digest> {
    let name = path.strip_prefix("data/")?;
    Digest::from_hex(name.strip_suffix(".parquet")?)
}

impl Cache {
    pub(crate) fn open(folder: &Path, max_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::local(folder, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            max_bytes,
            verified: Mutex::default(),
            foreign: Mutex::default(),
            failed_at: Mutex::default(),
            fetching: Mutex::default(),
        })
    }

    /// Whether an object of this size may be cached: at most half of the bound.
    pub(crate) fn takes(&self, size_bytes: u64) -> bool {
        size_bytes <= self.max_bytes / 2
    }

    /// Whether an object will likely be kept once it is fetched. Not shortly after a failed write,
    /// nor if the store has other bytes under its name.
    pub(crate) fn may_keep(&self, digest: &Digest, now: Instant) -> bool {
        let failed_at = *lock(&self.failed_at);
        let rests = failed_at.is_some_and(|at| now.saturating_duration_since(at) < REST);
        !rests && !lock(&self.foreign).contains(digest)
    }

    /// An object, or a range of it, if it is cached and its bytes have its digest.
    pub(crate) async fn get(
        self: &Arc<Self>,
        digest: Digest,
        range: Option<Range<u64>>,
    ) -> Option<Bytes> {
        let cache = self.clone();
        blocking(move || cache.read(&digest, range)).await?
    }

    /// Caches an object and drops the least recently read ones beyond the bound. Bytes of another
    /// digest are not cached. [`Cache::may_keep`] reflects the outcome.
    pub(crate) async fn put(self: &Arc<Self>, digest: Digest, bytes: &Bytes) {
        if !self.takes(bytes.len() as u64) {
            return;
        }
        let (cache, bytes) = (self.clone(), bytes.clone());
        let kept = blocking(move || cache.keep(digest, &bytes));
        if let Some(Err(error)) = kept.await {
            tracing::warn!(%digest, %error, "the cache failed");
        }
    }

    /// A place among those that want this object.
    pub(crate) fn turn(self: &Arc<Self>, digest: Digest) -> Turn {
        Turn {
            cache: self.clone(),
            digest,
            lock: lock(&self.fetching).entry(digest).or_default().clone(),
        }
    }

    /// The cached files, the most recently read first.
    pub(crate) async fn recent(self: &Arc<Self>, limit: usize) -> Vec<Digest> {
        let cache = self.clone();
        let listed = blocking(move || entries(&cache.folder)).await;
        let mut entries = listed.and_then(|listed| listed.ok()).unwrap_or_default();
        entries.sort_by(|a, b| b.cmp(a));
        let digests = entries.iter().filter_map(|entry| entry.digest());
        digests.take(limit).collect()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.parquet"))
    }

    /// Blocks on the disk.
    fn keep(&self, digest: Digest, bytes: &[u8]) -> std::io::Result<()> {
        if Digest::of(bytes) != digest {
            remember(&self.foreign, digest);
            return Ok(());
        }
        lock(&self.foreign).remove(&digest);
        let written = write_whole(&self.path(&digest), bytes);
        *lock(&self.failed_at) = written.is_err().then(Instant::now);
        written?;
        remember(&self.verified, digest);
        shrink(&self.folder, self.max_bytes)
    }

    /// Blocks on the disk.
    fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Option<Bytes> {
        let path = self.path(digest);
        if let Some(range) = &range
            && lock(&self.verified).contains(digest)
        {
            let bytes = read(&path, Some(range.clone())).ok()?;
            return (bytes.len() as u64 == range.end - range.start).then_some(bytes);
        }
        let bytes = read(&path, None).ok()?;
        if Digest::of(&bytes) != *digest {
            tracing::warn!(%digest, "a damaged file of the cache is removed");
            lock(&self.verified).remove(digest);
            let _ = std::fs::remove_file(&path);
            return None;
        }
        remember(&self.verified, *digest);
        match range {
            None => Some(bytes),
            Some(range) if range.end <= bytes.len() as u64 => {
                Some(bytes.slice(range.start as usize..range.end as usize))
            }
            // Beyond the end: the store decides.
            Some(_) => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave a set half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(set: &Mutex<HashSet<Digest>>, digest: Digest) {
    let mut set = lock(set);
    if set.len() >= REMEMBERED {
        set.clear();
    }
    set.insert(digest);
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn read(path: &Path, range: Option<Range<u64>>) -> std::io::Result<Bytes> {
    let mut file = std::fs::File::open(path)?;
    // The time of the last read decides which file is dropped first.
    let _ = file.set_modified(file_time());
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

/// The time that marks a file as used now. Other processes mark files of the same folder.
#[expect(
    clippy::disallowed_methods,
    reason = "times of files are compared with those that other processes set"
)]
pub(crate) fn file_time() -> SystemTime {
    SystemTime::now()
}

/// Stages under a unique name and renames, so that `path` never holds a partial file.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged = unique_beside(path);
    let written = write_new(&staged, bytes).and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(bytes)?;
    // The time that the system sets on a write lags by some milliseconds: the file would look
    // older than one that was read before it.
    file.set_modified(file_time())
}

/// A file of the folder, ordered by the time of its last read.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    read_at: SystemTime,
    path: PathBuf,
    size_bytes: u64,
}

impl Entry {
    /// `None` for a staging file or a foreign file.
    fn digest(&self) -> Option<Digest> {
        let name = self.path.file_name()?.to_str()?;
        Digest::from_hex(name.strip_suffix(".parquet")?)
    }
}

fn entries(folder: &Path) -> std::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Another process may have dropped it.
        let Ok(meta) = entry.metadata() else { continue };
        entries.push(Entry {
            read_at: meta.modified()?,
            path: entry.path(),
            size_bytes: meta.len(),
        });
    }
    Ok(entries)
}

/// Drops the least recently read files beyond the bound, and old staging files.
fn shrink(folder: &Path, max_bytes: u64) -> std::io::Result<()> {
    let mut entries = entries(folder)?;
    entries.sort();
    let mut total: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    let abandoned = file_time() - STAGED_FOR;
    for entry in entries {
        let drops = match entry.digest() {
            Some(_) => total > max_bytes,
            None => entry.read_at < abandoned,
        };
        if drops {
            let _ = std::fs::remove_file(&entry.path);
            total -= entry.size_bytes;
        }
    }
    Ok(())
}
