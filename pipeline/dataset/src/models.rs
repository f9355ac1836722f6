//! Model folders.
use crate::error::Result;
use crate::store::Store;
use capstan_plan::id::ModelDigest;
use std::path::{Path, PathBuf};
/// The digest of a local folder: over sorted file names and their digests.
pub async fn digest(_folder: &Path) -> Result<ModelDigest> {
    todo!()
}
/// Puts a local folder at `models/<digest>/`.
pub async fn put(_store: &Store, _folder: &Path) -> Result<ModelDigest> {
    todo!()
}
/// Brings a model to `<cache>/<digest>/`, verified, and gives that folder.
pub async fn fetch(_store: &Store, _model: &ModelDigest, _cache: &Path) -> Result<PathBuf> {
    todo!()
}
/// Whether a model is complete in the store.
pub async fn exists(_store: &Store, _model: &ModelDigest) -> Result<bool> {
    todo!()
}
/// Every complete model, by digest.
pub async fn list(_store: &Store) -> Result<Vec<ModelDigest>> {
    todo!()
}
