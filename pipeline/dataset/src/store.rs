//! Object storage under a prefix: create-if-absent, reads, listings; bounded retries.
//!
//! Only create-if-absent is portable across stores as a commit point, so records are only ever
//! created. [`Store::replace`] overwrites, and only restores a damaged object whose content its
//! name determines. A create whose acknowledgement was lost is distinguished from a lost race by
//! reading the object back, as the commit protocol requires.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use capstan_plan::backoff::Backoff;
use capstan_plan::draw::Draws;
use capstan_plan::id::Digest;
use futures::TryStreamExt;
use metrics::counter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::{Error, Result};

mod cache;
mod cause;
mod credentials;
mod local;
mod open;

use cache::Cache;
pub(crate) use cache::file_time;

/// Tries of one operation that a server answers with errors (500, 503 `SlowDown`, a truncated
/// body) before the last error is returned: about ten seconds.
const TRIES: u32 = 8;
/// Tries of one operation that gets no answer: about two seconds. A caller that can wait longer
/// uses [`Store::ready`].
const TRIES_UNANSWERED: u32 = 5;
/// Wait before the second try; doubles with each further one. Up to half of a wait is jitter.
const FIRST_WAIT: Duration = Duration::from_millis(150);
/// Longest wait before a further try.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Limit of the first wait before an unreachable store is probed again; doubles up to the longest.
const FIRST_READY_WAIT: Duration = Duration::from_millis(250);

/// Bytes read from stores, without those read from caches; described in `runtime::metrics`.
pub const READ_BYTES: &str = "capstan_store_read_bytes_total";
/// Bytes written to stores; described in `runtime::metrics`.
pub const WRITTEN_BYTES: &str = "capstan_store_written_bytes_total";

/// The outcome of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// This call created the object.
    Created,
    /// The object existed and was left unchanged.
    AlreadyExists,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Path within the store.
    pub path: String,
    /// Size.
    pub size_bytes: u64,
}

/// Object storage under a prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    /// The object store client.
    backend: Arc<dyn ObjectStore>,
    /// Prefix of every path in the backend.
    prefix: Path,
    /// The URL for messages; never holds credentials.
    url: Arc<str>,
    /// The folder of a local store.
    folder: Option<Arc<FsPath>>,
    /// Copies of `data/` objects on local disk.
    cache: Option<Arc<Cache>>,
    /// Waits between two tries.
    waits: Arc<Waits>,
    /// Requests that were answered.
    answers: Arc<AtomicU64>,
}

/// Waits between two tries. Up to half of a wait is jitter, so that processes whose requests failed
/// together do not try again together.
#[derive(Debug)]
struct Waits {
    draws: Draws,
    drawn: AtomicU64,
}

impl Store {
    /// The URL for messages, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests that were answered so far, through any clone. It stands still during an outage.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The folder of a local store.
    pub fn folder(&self) -> Option<&FsPath> {
        self.folder.as_deref()
    }

    /// Caches `data/` objects in `folder`, up to `max_bytes`; the least recently read are dropped
    /// first. For stores on other machines.
    ///
    /// # Errors
    /// [`Error::Local`] if the folder cannot be created.
    pub fn with_cache(mut self, folder: &FsPath, max_bytes: u64) -> Result<Self> {
        self.cache = Some(Arc::new(Cache::open(folder, max_bytes)?));
        Ok(self)
    }

    /// One cheap listing: fails with one clear line if the store cannot be used.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::Url`] (no such bucket).
    pub async fn probe(&self) -> Result<()> {
        let prefix = self.location("runs")?;
        self.retrying("runs", || self.backend.list_with_delimiter(Some(&prefix)))
            .await
            .map(|_| ())
    }

    /// Waits up to `patience` until the store answers. An error that waiting cannot fix (no such
    /// bucket, rejected keys) is returned at once.
    ///
    /// # Errors
    /// Those of [`Store::probe`].
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        let mut backoff = Backoff::new(FIRST_READY_WAIT, LONGEST_WAIT);
        loop {
            match self.probe_once().await {
                Err(error) if is_transient(&error) && began.elapsed() < patience => {
                    tracing::info!(%error, "waiting for the store");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// As [`Store::probe`], without retries.
    async fn probe_once(&self) -> Result<()> {
        let prefix = self.location("runs")?;
        match self.backend.list_with_delimiter(Some(&prefix)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(cause::explain(&self.url, "runs", error)),
        }
    }

    /// Digests of the files in the cache, the most recently read first.
    pub async fn cached(&self, limit: usize) -> Vec<Digest> {
        match &self.cache {
            Some(cache) => cache.recent(limit).await,
            None => Vec::new(),
        }
    }

    /// Creates an object if there is none.
    ///
    /// Two writers of *equal* bytes may both get [`Created::Created`] if an acknowledgement was
    /// lost. Writers that need exactly one winner put an id into the bytes.
    ///
    /// # Errors
    /// [`Error::StoreFull`], [`Error::Unreachable`], [`Error::Refused`];
    /// [`Error::Contended`] if the store reports a conflict with an object that never appears.
    pub async fn create(&self, path: &str, bytes: impl Into<Bytes>) -> Result<Created> {
        let bytes = bytes.into();
        let location = self.location(path)?;
        // Set once an answer was lost: an existing object may be the one of this call.
        let mut unsure = false;
        let mut last = None;
        let mut tries = TRIES;
        let mut attempt = 0;
        while attempt < tries {
            self.waits.wait(path, attempt).await;
            attempt += 1;
            let options = PutOptions::from(PutMode::Create);
            let put = self
                .backend
                .put_opts(&location, bytes.clone().into(), options)
                .await;
            match put {
                Ok(_) => {
                    self.answered();
                    counter!(WRITTEN_BYTES).increment(bytes.len() as u64);
                    return Ok(Created::Created);
                }
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => {
                    self.answered();
                    let found = match unsure {
                        true => self.try_get(path).await?.map(|found| found == bytes),
                        false => self.size(path).await?.map(|_| false),
                    };
                    match found {
                        Some(true) => return Ok(Created::Created),
                        Some(false) => return Ok(Created::AlreadyExists),
                        // A conflict without a winner (S3 answers 409 to both): try again.
                        None => {}
                    }
                }
                Err(error) => {
                    let error = cause::explain(&self.url, path, error);
                    if !is_transient(&error) {
                        return Err(error);
                    }
                    unsure = true;
                    tries = tries_for(&error);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Contended {
            url: self.url.to_string(),
            path: path.to_owned(),
            tries: TRIES,
        }))
    }

    /// Overwrites an object: restores one whose name determines its content, and that is damaged.
    ///
    /// # Errors
    /// [`Error::StoreFull`], [`Error::Unreachable`], [`Error::Refused`].
    pub(crate) async fn replace(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        let location = self.location(path)?;
        let put = || self.backend.put(&location, bytes.clone().into());
        self.retrying(path, put).await?;
        counter!(WRITTEN_BYTES).increment(bytes.len() as u64);
        Ok(())
    }

    /// blake3 of the bytes of an object in the store, not in the cache. Reads it in chunks.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn digest(&self, path: &str) -> Result<Option<Digest>> {
        let location = self.location(path)?;
        let read = self.retrying(path, || async {
            let mut chunks = self.backend.get(&location).await?.into_stream();
            let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
            while let Some(chunk) = chunks.try_next().await? {
                hasher.update(&chunk);
                length += chunk.len() as u64;
            }
            Ok((Digest(*hasher.finalize().as_bytes()), length))
        });
        let Some((digest, length)) = absent(read.await)? else {
            return Ok(None);
        };
        counter!(READ_BYTES).increment(length);
        Ok(Some(digest))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::NotFound`] and those of the store.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        match self.in_cache(path) {
            Some((cache, digest)) => match cache.get(digest, None).await {
                Some(bytes) => Ok(bytes),
                None => self.fill(&cache, digest, path).await,
            },
            None => self.get_uncached(path).await,
        }
    }

    /// Copies an object into the cache. Concurrent readers of one object share one fetch.
    async fn fill(&self, cache: &Arc<Cache>, digest: Digest, path: &str) -> Result<Bytes> {
        let turn = cache.turn(digest);
        let _mine = turn.take().await;
        self.fill_in_turn(cache, digest, path).await
    }

    /// [`Store::fill`] for a reader of a range. `None` if the cache would not keep the object, so
    /// that the next range would fetch it again.
    async fn fill_if_kept(
        &self,
        cache: &Arc<Cache>,
        digest: Digest,
        path: &str,
    ) -> Result<Option<Bytes>> {
        if !cache.may_keep(&digest, Instant::now()) {
            return Ok(None);
        }
        let size_bytes = self.size(path).await?.unwrap_or(0);
        if !cache.takes(size_bytes) {
            return Ok(None);
        }
        let turn = cache.turn(digest);
        let _mine = turn.take().await;
        // The reader that held the turn before may have found that the disk is full.
        if !cache.may_keep(&digest, Instant::now()) {
            return Ok(None);
        }
        self.fill_in_turn(cache, digest, path).await.map(Some)
    }

    async fn fill_in_turn(&self, cache: &Arc<Cache>, digest: Digest, path: &str) -> Result<Bytes> {
        if let Some(bytes) = cache.get(digest, None).await {
            return Ok(bytes);
        }
        let bytes = self.get_uncached(path).await?;
        cache.put(digest, &bytes).await;
        Ok(bytes)
    }

    /// Reads an object from the store, not from the cache.
    pub(crate) async fn get_uncached(&self, path: &str) -> Result<Bytes> {
        let location = self.location(path)?;
        let read = self.retrying(path, || async {
            self.backend.get(&location).await?.bytes().await
        });
        counted(read.await)
    }

    /// Reads an object if it exists.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn try_get(&self, path: &str) -> Result<Option<Bytes>> {
        absent(self.get(path).await)
    }

    /// Reads a range of an object: from its copy in the cache, else this range from the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] and those of the store.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if let Some((cache, digest)) = self.in_cache(path)
            && let Some(bytes) = cache.get(digest, Some(range.clone())).await
        {
            return Ok(bytes);
        }
        self.get_range_uncached(path, range).await
    }

    /// Reads a range of an object of which more will be read: the whole object is fetched into
    /// the cache first, if the cache can keep it.
    ///
    /// # Errors
    /// [`Error::NotFound`] and those of the store.
    pub(crate) async fn get_range_cached(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if let Some((cache, digest)) = self.in_cache(path) {
            if let Some(bytes) = cache.get(digest, Some(range.clone())).await {
                return Ok(bytes);
            }
            if let Some(bytes) = self.fill_if_kept(&cache, digest, path).await? {
                let end = range.end.min(bytes.len() as u64) as usize;
                return Ok(bytes.slice((range.start as usize).min(end)..end));
            }
        }
        self.get_range_uncached(path, range).await
    }

    async fn get_range_uncached(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let location = self.location(path)?;
        let read = self.retrying(path, || self.backend.get_range(&location, range.clone()));
        counted(read.await)
    }

    /// Size of an object if it exists.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        let location = self.location(path)?;
        let head = self.retrying(path, || self.backend.head(&location));
        Ok(absent(head.await)?.map(|meta| meta.size))
    }

    /// Every object under a folder, by path. The names of all of them are held in memory.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>> {
        let prefix = self.location(folder)?;
        let listed: Vec<_> = self
            .retrying(folder, || self.backend.list(Some(&prefix)).try_collect())
            .await?;
        let mut objects: Vec<Object> = listed
            .into_iter()
            .filter_map(|meta| {
                Some(Object {
                    path: self.within(&meta.location)?,
                    size_bytes: meta.size,
                })
            })
            .collect();
        objects.sort();
        Ok(objects)
    }

    /// File names of the objects under a folder that end with `suffix`, without it, sorted. Holds the names
    /// alone, which for a million objects is a tenth of what [`Store::list`] needs.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn names(&self, folder: &str, suffix: &str) -> Result<Vec<String>> {
        let prefix = self.location(folder)?;
        let name = |meta: object_store::ObjectMeta| {
            let name = meta.location.filename();
            let name = name.and_then(|name| name.strip_suffix(suffix));
            futures::future::ready(Ok(name.map(str::to_owned)))
        };
        let list = || {
            self.backend
                .list(Some(&prefix))
                .try_filter_map(name)
                .try_collect()
        };
        let mut names: Vec<String> = self.retrying(folder, list).await?;
        names.sort();
        Ok(names)
    }

    /// Names of the folders directly under `folder`, sorted.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = self.location(folder)?;
        let listed = self
            .retrying(folder, || self.backend.list_with_delimiter(Some(&prefix)))
            .await?;
        let names = listed.common_prefixes.iter().filter_map(|p| p.filename());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; a missing one is no error. Only for objects that no record names:
    /// superseded checkpoints, and purges.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let location = self.location(path)?;
        absent(self.retrying(path, || self.backend.delete(&location)).await).map(|_| ())
    }

    /// Creates an object that holds `value` as indented JSON.
    pub(crate) async fn create_json(&self, path: &str, value: &impl Serialize) -> Result<Created> {
        self.create(path, to_json(path, value)?).await
    }

    /// As [`Store::replace`], with `value` as indented JSON.
    pub(crate) async fn replace_json(&self, path: &str, value: &impl Serialize) -> Result<()> {
        self.replace(path, to_json(path, value)?).await
    }

    /// Reads an object of JSON if it exists.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(bytes) = self.try_get(path).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::damaged(path, error))
    }

    /// The cache, and the digest under which it keeps the object of this path.
    fn in_cache(&self, path: &str) -> Option<(Arc<Cache>, Digest)> {
        Some((self.cache.clone()?, cache::digest_of(path)?))
    }

    fn location(&self, path: &str) -> Result<Path> {
        let whole = format!("{}/{path}", self.prefix);
        Path::parse(whole.trim_matches('/')).map_err(|error| Error::Name {
            what: "object",
            name: error.to_string(),
        })
    }

    fn within(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        Some(parts.join("/"))
    }

    /// Repeats an idempotent operation while it fails with a transient error.
    async fn retrying<T, F>(&self, path: &str, mut operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut attempt = 0;
        loop {
            let error = match operation().await {
                Ok(done) => {
                    self.answered();
                    return Ok(done);
                }
                Err(error) => cause::explain(&self.url, path, error),
            };
            attempt += 1;
            if !is_transient(&error) {
                self.answered();
            }
            if attempt >= tries_for(&error) || !is_transient(&error) {
                return Err(error);
            }
            tracing::debug!(path, attempt, %error, "store failed, trying again");
            self.waits.wait(path, attempt).await;
        }
    }
}

fn to_json(path: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Rows {
        what: path.to_owned(),
        reason: error.to_string(),
    })
}

/// How often an operation that fails with this error is tried.
fn tries_for(error: &Error) -> u32 {
    match error {
        Error::Unreachable { .. } => TRIES_UNANSWERED,
        _ => TRIES,
    }
}

fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Store { .. })
}

/// Counts the bytes read from a store.
fn counted(read: Result<Bytes>) -> Result<Bytes> {
    if let Ok(bytes) = &read {
        counter!(READ_BYTES).increment(bytes.len() as u64);
    }
    read
}

/// Turns [`Error::NotFound`] into `None`.
fn absent<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Waits {
    /// - `seed`: different in every process.
    fn new(seed: u64) -> Self {
        Self {
            draws: Draws::new(seed, "store-jitter"),
            drawn: AtomicU64::new(0),
        }
    }

    /// Waits before every try but the first.
    async fn wait(&self, path: &str, attempt: u32) {
        if attempt == 0 {
            return;
        }
        let longest = (FIRST_WAIT * 2u32.pow(attempt - 1)).min(LONGEST_WAIT);
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        let share = 0.5 + 0.5 * self.draws.unit(path.as_bytes(), count);
        tokio::time::sleep(longest.mul_f64(share)).await;
    }
}

/// `name` as a part of a path.
///
/// # Errors
/// [`Error::Name`] for a name that could leave its folder or that a store treats specially.
pub(crate) fn checked<'a>(what: &'static str, name: &'a str) -> Result<&'a str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let good = !name.is_empty() && name.len() <= 200 && name.bytes().all(plain);
    if good && !name.starts_with('.') {
        return Ok(name);
    }
    Err(Error::Name {
        what,
        name: name.to_owned(),
    })
}

/// A number that no other process has. A process id does not suffice: the first process of every
/// container has the same one.
fn process() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "two processes must not choose the same number"
    )]
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    *PROCESS
}

/// A path beside `target` that no other call of any process uses.
pub(crate) fn unique_beside(target: &FsPath) -> PathBuf {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let count = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{:016x}-{count}.tmp", process()))
}

#[cfg(test)]
mod tests;
