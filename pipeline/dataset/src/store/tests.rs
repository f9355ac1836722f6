//! Stores that fail: lost answers, full disks, caches, bad names.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutPayload, PutResult,
};

use super::*;
use capstan_plan::FailureKind;

/// What happens to the next writes of a [`Flaky`] store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The object is written, the answer is lost.
    AnswerLost,
    /// Somebody else's object is written first, and the answer is lost.
    RivalAndAnswerLost,
    /// A conflict is reported, but nobody won.
    ConflictWithoutWinner,
    /// No space is left.
    Full,
}

/// A store in memory whose writes meet the given faults, one per write, and whose first listings fail.
/// Counts the objects that are read whole.
#[derive(Debug)]
struct Flaky {
    inner: InMemory,
    faults: Mutex<Vec<Fault>>,
    failing_listings: AtomicU64,
    wholes: AtomicU64,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

fn generic(cause: std::io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "flaky",
        source: Box::new(cause),
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fault = self.faults.lock().unwrap().pop();
        let reset = || generic(std::io::ErrorKind::ConnectionReset.into());
        match fault {
            None => self.inner.put_opts(location, payload, options).await,
            Some(Fault::AnswerLost) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(reset())
            }
            Some(Fault::RivalAndAnswerLost) => {
                self.inner.put(location, "rival".into()).await?;
                Err(reset())
            }
            Some(Fault::ConflictWithoutWinner) => Err(object_store::Error::AlreadyExists {
                path: location.to_string(),
                source: "conflict".into(),
            }),
            Some(Fault::Full) => Err(generic(std::io::ErrorKind::StorageFull.into())),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        if options.range.is_none() && !options.head {
            self.wholes.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let less = |left: u64| left.checked_sub(1);
        let left = self
            .failing_listings
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if left.is_ok() {
            return Err(generic(std::io::ErrorKind::ConnectionReset.into()));
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A store whose next writes meet these faults, in order.
fn flaky(faults: &[Fault]) -> Store {
    failing(faults, 0)
}

fn failing(faults: &[Fault], listings: u64) -> Store {
    over(&Arc::new(Flaky {
        inner: InMemory::new(),
        faults: Mutex::new(faults.iter().rev().copied().collect()),
        failing_listings: AtomicU64::new(listings),
        wholes: AtomicU64::new(0),
    }))
}

fn over(backend: &Arc<Flaky>) -> Store {
    Store::over(backend.clone(), Path::from("under"), "flaky://")
}

#[tokio::test]
async fn a_lost_answer_is_read_back() {
    let store = flaky(&[Fault::AnswerLost]);
    let created = store.create("a", &b"mine"[..]).await.unwrap();
    assert_eq!(created, Created::Created, "the object is ours");

    let store = flaky(&[Fault::RivalAndAnswerLost]);
    let created = store.create("a", &b"mine"[..]).await.unwrap();
    assert_eq!(created, Created::AlreadyExists);
    assert_eq!(store.get("a").await.unwrap(), &b"rival"[..]);
}

#[tokio::test]
async fn a_conflict_that_nobody_won_is_tried_again() {
    let store = flaky(&[Fault::ConflictWithoutWinner; 3]);
    let created = store.create("a", &b"mine"[..]).await.unwrap();
    assert_eq!(created, Created::Created);

    let store = flaky(&[Fault::ConflictWithoutWinner; 99]);
    let error = store.create("a", &b"mine"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Contended { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Transient);
}

#[tokio::test]
async fn a_full_disk_is_said_at_once() {
    let store = flaky(&[Fault::Full]);
    let error = store.create("data/x", &b"mine"[..]).await.unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error:?}");
    assert_eq!(error.kind(), FailureKind::WorkerFault);
    let line = error.to_string();
    assert!(
        line.contains("flaky://") && line.contains("data/x"),
        "{line}"
    );
    // And the same write goes on once there is room.
    let created = store.create("data/x", &b"mine"[..]).await.unwrap();
    assert_eq!(created, Created::Created);
}

/// Puts bytes under their digest, as files are.
async fn put_file(store: &Store, bytes: Vec<u8>) -> (Digest, String) {
    let digest = Digest::of(&bytes);
    let path = crate::files::path(&digest);
    store.create(&path, bytes).await.unwrap();
    (digest, path)
}

fn bytes_in(folder: &FsPath) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn the_cache_is_bounded_and_serves_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let cached = store.clone().with_cache(folder.path(), 1000).unwrap();
    let mut put = Vec::new();
    for n in 0..10u8 {
        let (digest, path) = put_file(&store, vec![n; 300]).await;
        assert_eq!(cached.get(&path).await.unwrap(), vec![n; 300]);
        assert_eq!(
            cached.get_range_cached(&path, 1..3).await.unwrap(),
            vec![n; 2]
        );
        put.push((digest, path));
    }
    assert_eq!(bytes_in(folder.path()), 900);
    let newest = |n: usize| put.iter().rev().take(n).map(|(digest, _)| *digest);
    assert_eq!(cached.cached(2).await, newest(2).collect::<Vec<_>>());
    assert_eq!(cached.cached(99).await, newest(3).collect::<Vec<_>>());
    assert!(store.cached(99).await.is_empty());
    // The least recently read goes first, not the first that came.
    cached.get_range_cached(&put[7].1, 0..1).await.unwrap();
    cached.get(&put[0].1).await.unwrap();
    assert!(!cached.cached(99).await.contains(&put[8].0));
    store.delete(&put[7].1).await.unwrap();
    assert_eq!(cached.get(&put[7].1).await.unwrap(), vec![7; 300]);
    // Too large to be kept, and no file of ours: read from the store each time.
    let (_, large) = put_file(&store, vec![1; 600]).await;
    for path in ["runs/x", "data/x"] {
        store.create(path, vec![2; 3]).await.unwrap();
    }
    for path in [large.as_str(), "runs/x", "data/x"] {
        assert!(cached.get(path).await.is_ok());
        store.delete(path).await.unwrap();
        let gone = cached.get(path).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })));
    }
}

#[tokio::test]
async fn damaged_files_of_the_cache_are_read_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let open = || store.clone().with_cache(folder.path(), 10_000).unwrap();
    let (digest, path) = put_file(&store, vec![5; 300]).await;
    let cached = open();
    assert_eq!(cached.get(&path).await.unwrap(), vec![5; 300]);
    let file = folder.path().join(format!("{digest}.parquet"));
    let damage = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    // Read whole by the same process, and in part by another one.
    damage(&[6; 300]);
    assert_eq!(cached.get(&path).await.unwrap(), vec![5; 300]);
    assert_eq!(std::fs::read(&file).unwrap(), vec![5; 300], "it is mended");
    damage(&[6; 300]);
    assert_eq!(
        open().get_range_cached(&path, 2..4).await.unwrap(),
        vec![5; 2]
    );
    // Cut short, or dropped, while this process knows it as good.
    damage(&[5; 10]);
    assert_eq!(
        cached.get_range_cached(&path, 20..24).await.unwrap(),
        vec![5; 4]
    );
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        cached.get_range_cached(&path, 20..24).await.unwrap(),
        vec![5; 4]
    );
    // Bytes that are not the object's are never kept.
    let foreign = crate::files::path(&Digest::of(b"another"));
    store.create(&foreign, &b"damaged"[..]).await.unwrap();
    assert_eq!(cached.get(&foreign).await.unwrap(), &b"damaged"[..]);
    assert_eq!(cached.cached(9).await, [digest]);
}

async fn part(store: &Store, path: &str) -> Bytes {
    store.get_range_cached(path, 1..3).await.unwrap()
}

#[tokio::test]
async fn of_what_the_cache_cannot_keep_parts_are_read() {
    let backend = Arc::new(Flaky {
        inner: InMemory::new(),
        faults: Mutex::default(),
        failing_listings: AtomicU64::new(0),
        wholes: AtomicU64::new(0),
    });
    let wholes = || backend.wholes.load(Ordering::Relaxed);
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("cache");
    let store = over(&backend);
    let cached = store.clone().with_cache(&folder, 10_000).unwrap();
    let (digest, five) = put_file(&store, vec![5; 300]).await;
    let (_, six) = put_file(&store, vec![6; 300]).await;

    // A disk that takes nothing is found out by one object, whoever asks for it.
    std::fs::remove_dir(&folder).unwrap();
    let (one, other) = tokio::join!(part(&cached, &five), part(&cached, &five));
    assert_eq!(one, vec![5; 2]);
    assert_eq!(other, vec![5; 2]);
    assert_eq!(part(&cached, &six).await, vec![6; 2]);
    assert_eq!(part(&cached, &six).await, vec![6; 2]);
    assert_eq!(wholes(), 1);

    // After a rest it is tried again; it is over at once where a whole object is kept.
    let (cache, now) = (cached.cache.as_ref().unwrap(), Instant::now());
    assert!(!cache.may_keep(&digest, now));
    assert!(cache.may_keep(&digest, now + cache::REST));
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(cached.get(&five).await.unwrap(), vec![5; 300]);
    assert_eq!(part(&cached, &six).await, vec![6; 2]);
    assert_eq!(wholes(), 3);
    assert_eq!(bytes_in(&folder), 600);
    assert_eq!(part(&cached, &six).await, vec![6; 2]);
    assert_eq!(wholes(), 3);

    // Bytes that are not the object's are never kept; others are still.
    let foreign = crate::files::path(&Digest::of(b"another"));
    store.create(&foreign, vec![7; 300]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(part(&cached, &foreign).await, vec![7; 2]);
    }
    assert_eq!(wholes(), 4);
    let (eight, path) = put_file(&store, vec![8; 300]).await;
    assert_eq!(part(&cached, &path).await, vec![8; 2]);
    assert!(cached.cached(9).await.contains(&eight));
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_that_share_a_folder_give_what_the_store_has() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let mut paths = Vec::new();
    for n in 0..20u8 {
        paths.push(put_file(&store, vec![n; 300]).await.1);
    }
    let readers = (0..4).map(|reader| {
        let cached = store.clone().with_cache(folder.path(), 1500).unwrap();
        let paths = paths.clone();
        tokio::spawn(async move {
            for round in 0..100 {
                let n = (round * 7 + reader) % paths.len();
                let read = cached.get_range_cached(&paths[n], 10..20).await.unwrap();
                assert_eq!(read, vec![n as u8; 10]);
            }
        })
    });
    for reader in futures::future::join_all(readers).await {
        reader.unwrap();
    }
    // One more file may have come between the last look and its end, of each reader.
    assert!(bytes_in(folder.path()) <= 1500 + 4 * 300);
    assert!(std::fs::read_dir(folder.path()).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        !name.to_string_lossy().ends_with(".tmp")
    }));
}

#[tokio::test]
async fn a_store_that_comes_late_is_waited_for() {
    let store = failing(&[], 3);
    let error = store.ready(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Transient);
    store.ready(Duration::from_secs(300)).await.unwrap();
    let began = tokio::time::Instant::now();
    let store = failing(&[], u64::MAX);
    assert!(store.ready(Duration::from_secs(1)).await.is_err());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn a_local_store_shows_no_half_written_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    // What a killed writer leaves: the backend's staging file.
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/x.parquet#1"), b"half").unwrap();
    assert_eq!(store.list("data").await.unwrap(), []);
    assert_eq!(store.try_get("data/x.parquet").await.unwrap(), None);
    let created = store.create("data/x.parquet", &b"whole"[..]).await.unwrap();
    assert_eq!(created, Created::Created);
    assert_eq!(store.get("data/x.parquet").await.unwrap(), &b"whole"[..]);
}

#[test]
fn urls_that_are_no_store_are_refused() {
    for url in ["ftp://x/y", "s3://", "http://x"] {
        let error = Store::open_with(url, []).unwrap_err();
        assert!(matches!(error, Error::Url { .. }), "{url}: {error}");
        assert_eq!(error.kind(), FailureKind::BadInput);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(Store::open(file.path().to_str().unwrap()).is_err());
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/new", folder.path().display());
    let store = Store::open(&url).unwrap();
    assert!(store.folder().unwrap().ends_with("new"));
    assert_eq!(Store::open("memory://").unwrap().url(), "memory://");
}

#[test]
fn names_cannot_leave_their_folder() {
    for good in ["all", "00007", "pages-0-00003", "r1.a_b"] {
        assert_eq!(checked("shard", good).unwrap(), good);
    }
    for bad in ["", ".", "..", "a/b", "a b", "a#1", "\u{e9}", ".x"] {
        assert!(checked("shard", bad).is_err(), "{bad}");
    }
}

/// An address at which nothing listens.
fn closed_endpoint() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn s3_without_credentials_says_which_settings_are_missing() {
    let metadata = ("AWS_METADATA_ENDPOINT".to_owned(), closed_endpoint());
    let store = Store::open_with("s3://bucket/prefix", [metadata]).unwrap();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, Error::NoCredentials { .. }), "{error:?}");
    assert_eq!(error.kind(), FailureKind::WorkerFault);
    assert_eq!(
        error.to_string(),
        "store s3://bucket/prefix has no credentials: set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, or aws_access_key_id and aws_secret_access_key in [store.options]"
    );
    assert!(std::error::Error::source(&error).is_none());
}

#[tokio::test]
async fn s3_with_credentials_that_is_away_is_unreachable() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_ENDPOINT_URL", closed_endpoint()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let store = Store::open_with("s3://bucket/prefix", variables).unwrap();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}
