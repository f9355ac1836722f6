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

/// A store in memory whose writes fail as told, one fault a write.
#[derive(Debug)]
struct Flaky {
    inner: InMemory,
    faults: Mutex<Vec<Fault>>,
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
    let backend = Flaky {
        inner: InMemory::new(),
        faults: Mutex::new(faults.iter().rev().copied().collect()),
    };
    Store::over(Arc::new(backend), Path::from("under"), "flaky://")
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

#[tokio::test]
async fn the_cache_is_bounded_and_serves_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let cached = store.clone().with_cache(folder.path(), 1000).unwrap();
    for n in 0..10u8 {
        let path = format!("data/{n}");
        store.create(&path, vec![n; 300]).await.unwrap();
        assert_eq!(cached.get(&path).await.unwrap(), vec![n; 300]);
        assert_eq!(cached.get_range(&path, 1..3).await.unwrap(), vec![n; 2]);
    }
    let kept: u64 = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(kept, 900);
    store.delete("data/9").await.unwrap();
    assert_eq!(cached.get("data/9").await.unwrap(), vec![9; 300]);
    // Too large to be kept, and outside `data/`: read from the store each time.
    store.create("data/large", vec![1; 600]).await.unwrap();
    store.create("runs/x", vec![2; 3]).await.unwrap();
    for path in ["data/large", "runs/x"] {
        assert!(cached.get(path).await.is_ok());
        store.delete(path).await.unwrap();
        assert!(matches!(
            cached.get(path).await,
            Err(Error::NotFound { .. })
        ));
    }
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
