//! A store.
use crate::error::Result;
use bytes::Bytes;
use std::sync::Arc;

/// What a create met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is ours.
    Created,
    /// Another stands there.
    AlreadyExists,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path within the store.
    pub path: String,
    /// Size.
    pub size_bytes: u64,
}

/// Object storage under a prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<()>,
}

impl Store {
    /// Opens a folder (made if absent), `file://`, `memory://` or `s3://bucket/prefix`.
    pub fn open(_url: &str) -> Result<Self> {
        todo!()
    }
    /// A store in memory, of its own.
    pub fn memory() -> Self {
        todo!()
    }
    /// The store as people name it.
    pub fn url(&self) -> &str {
        todo!()
    }
    /// Keeps read `data/` objects in `folder`, at most `max_bytes` of them.
    pub fn with_cache(self, _folder: &std::path::Path, _max_bytes: u64) -> Result<Self> {
        todo!()
    }
    /// Fails with [`Error::Unreachable`] and the like where the store cannot be used.
    pub async fn probe(&self) -> Result<()> {
        todo!()
    }
    /// Creates an object if there is none.
    pub async fn create(&self, _path: &str, _bytes: impl Into<Bytes>) -> Result<Created> {
        todo!()
    }
    /// Reads an object.
    pub async fn get(&self, _path: &str) -> Result<Bytes> {
        todo!()
    }
    /// Reads an object, if it is there.
    pub async fn try_get(&self, _path: &str) -> Result<Option<Bytes>> {
        todo!()
    }
    /// Size of an object, if it is there.
    pub async fn size(&self, _path: &str) -> Result<Option<u64>> {
        todo!()
    }
    /// Every object under a folder, by path.
    pub async fn list(&self, _folder: &str) -> Result<Vec<Object>> {
        todo!()
    }
    /// Names of the folders directly under `folder`, sorted.
    pub async fn folders(&self, _folder: &str) -> Result<Vec<String>> {
        todo!()
    }
    /// Deletes an object; one that is not there is no error.
    pub async fn delete(&self, _path: &str) -> Result<()> {
        todo!()
    }
}
