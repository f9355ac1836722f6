//! A store that counts what is read from every object.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use capstan_plan::commit::File;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::files;
use crate::store::Store;

/// Counts the bytes of every read of another store.
#[derive(Debug)]
pub(crate) struct Counting {
    inner: Arc<dyn ObjectStore>,
    /// Bytes read, by path.
    read: Mutex<BTreeMap<String, u64>>,
}

impl Counting {
    /// A store in memory that counts.
    pub(crate) fn store() -> (Arc<Self>, Store) {
        Self::over(Arc::new(InMemory::new()), Path::default())
    }

    pub(crate) fn over(inner: Arc<dyn ObjectStore>, prefix: Path) -> (Arc<Self>, Store) {
        let counting = Arc::new(Self {
            inner,
            read: Mutex::default(),
        });
        let store = Store::over(counting.clone(), prefix, "counting://");
        (counting, store)
    }

    /// Bytes read of all objects since the last [`Counting::reset`].
    pub(crate) fn bytes(&self) -> u64 {
        self.read.lock().unwrap().values().sum()
    }

    /// Bytes read of these files since the last [`Counting::reset`].
    pub(crate) fn bytes_of<'a>(&self, files: impl IntoIterator<Item = &'a File>) -> u64 {
        let read = self.read.lock().unwrap();
        let paths = files.into_iter().map(|file| files::path(&file.digest));
        paths.filter_map(|path| read.get(&path)).sum()
    }

    /// Paths read since the last [`Counting::reset`].
    pub(crate) fn paths(&self) -> Vec<String> {
        self.read.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn reset(&self) {
        self.read.lock().unwrap().clear();
    }

    fn add(&self, location: &Path, bytes: u64) {
        let mut read = self.read.lock().unwrap();
        *read.entry(location.to_string()).or_default() += bytes;
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let found = self.inner.get_opts(location, options).await?;
        if !is_head {
            self.add(location, found.range.end - found.range.start);
        }
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let found = self.inner.get_ranges(location, ranges).await?;
        self.add(location, found.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
