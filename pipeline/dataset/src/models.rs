//! Model folders: `models/<digest>/`, in the layout that the model crate writes, and a `COMMIT`
//! beside the files that lists them, created last. Tokenizers are stored the same way.

use std::path::{Path, PathBuf};

use capstan_plan::id::{Digest, ModelDigest};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::folders::{self, Entry};
use crate::store::Store;

mod catalogue;

pub use catalogue::{Listed, MadeBy, catalogue, describe};

/// Most models in a cache folder; the least recently fetched are dropped first.
const CACHED_MODELS: usize = 32;

/// `models/<digest>/COMMIT`, which makes the folder complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its files, by name.
    pub files: Vec<Entry>,
}

fn prefix(model: &ModelDigest) -> String {
    format!("models/{model}")
}

fn commit_path(model: &ModelDigest) -> String {
    format!("models/{model}/COMMIT")
}

/// The digest of a local folder: blake3 over its sorted file names and their digests.
///
/// # Errors
/// [`Error::Folder`], [`Error::Local`], [`Error::Name`].
pub async fn digest(folder: &Path) -> Result<ModelDigest> {
    Ok(ModelDigest(folders::digest_of(
        &folders::scan(folder).await?,
    )))
}

/// Puts a local folder at `models/<digest>/`. A complete model is left unchanged; damaged or
/// missing files of one are written again.
///
/// # Errors
/// [`Error::Folder`], [`Error::Local`], [`Error::Name`]; those of [`Store::create`].
pub async fn put(store: &Store, folder: &Path) -> Result<ModelDigest> {
    put_files(store, folder, folders::scan(folder).await?).await
}

/// Puts the files of a Hugging Face folder that belong to a model, and ignores others (weights in
/// other formats, cards, samples). A folder that [`put`] stored has the same digest here.
///
/// # Errors
/// Those of [`put`].
pub async fn put_given(store: &Store, folder: &Path) -> Result<ModelDigest> {
    put_files(
        store,
        folder,
        folders::scan_some(folder, is_of_model).await?,
    )
    .await
}

/// The digest under which [`put_given`] would store a folder.
///
/// # Errors
/// Those of [`digest`].
pub async fn digest_given(folder: &Path) -> Result<ModelDigest> {
    let files = folders::scan_some(folder, is_of_model).await?;
    Ok(ModelDigest(folders::digest_of(&files)))
}

/// Whether a file, by its name within the folder, belongs to a model. A pre-trained MED consists
/// of two such folders.
fn is_of_model(name: &str) -> bool {
    let name = match name.split_once('/') {
        Some(("conditional_generation" | "image_text_retrieval", "")) => return true,
        Some(("conditional_generation" | "image_text_retrieval", name)) => name,
        _ => name,
    };
    const FILES: [&str; 5] = [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];
    FILES.contains(&name)
}

async fn put_files(store: &Store, folder: &Path, files: Vec<Entry>) -> Result<ModelDigest> {
    let model = ModelDigest(folders::digest_of(&files));
    if !is_whole(store, &model).await? {
        folders::upload(store, &prefix(&model), folder, &files).await?;
        store
            .create_json(&commit_path(&model), &Manifest { files })
            .await?;
    }
    Ok(model)
}

/// The files of a complete model.
///
/// # Errors
/// [`Error::NoModel`], [`Error::Damaged`].
pub async fn manifest(store: &Store, model: &ModelDigest) -> Result<Manifest> {
    let path = commit_path(model);
    let manifest: Manifest = store.get_json(&path).await?.ok_or_else(|| Error::NoModel {
        model: *model,
        url: store.url().to_owned(),
    })?;
    match folders::digest_of(&manifest.files) == model.0 {
        true => Ok(manifest),
        false => Err(Error::damaged(path, "its files do not have its digest")),
    }
}

/// Downloads a model to `<cache>/<digest>/` and checks its digests. The folder appears complete
/// or not at all. The cache keeps 32 models.
///
/// # Errors
/// [`Error::NoModel`], [`Error::Damaged`], [`Error::Local`], [`Error::StoreFull`].
pub async fn fetch(store: &Store, model: &ModelDigest, cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(model.to_string());
    if !folder.is_dir() {
        let manifest = manifest(store, model).await?;
        let fetched = folders::download(store, &prefix(model), &manifest.files, &folder).await;
        // Another process may have downloaded it first; its files have the same digests.
        if !folder.is_dir() {
            fetched?;
        }
    }
    // The time only decides which models are dropped.
    if let Ok(opened) = std::fs::File::open(&folder) {
        let _ = opened.set_modified(crate::store::file_time());
    }
    drop_oldest(cache, &folder);
    Ok(folder)
}

/// Ignores failures: the next call tries again.
fn drop_oldest(cache: &Path, but: &Path) {
    let Ok(entries) = std::fs::read_dir(cache) else {
        return;
    };
    let is_model = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(Digest::from_hex).is_some() && path != but
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut models: Vec<_> = paths
        .filter(is_model)
        .filter_map(|path| Some((std::fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    models.sort();
    let surplus = (models.len() + 1).saturating_sub(CACHED_MODELS);
    for (_, path) in models.into_iter().take(surplus) {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Whether the `COMMIT` of a model is in the store. See [`is_whole`] for its files.
///
/// # Errors
/// Those of the store.
pub async fn exists(store: &Store, model: &ModelDigest) -> Result<bool> {
    Ok(store.size(&commit_path(model)).await?.is_some())
}

/// Whether a model is complete in the store, and every file has the size that its `COMMIT` records.
///
/// # Errors
/// Those of the store.
pub(crate) async fn is_whole(store: &Store, model: &ModelDigest) -> Result<bool> {
    let manifest = match manifest(store, model).await {
        Ok(manifest) => manifest,
        Err(Error::NoModel { .. } | Error::Damaged { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    for file in &manifest.files {
        let path = format!("{}/{}", prefix(model), file.name);
        if store.size(&path).await? != Some(file.size_bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every complete model, by digest.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store) -> Result<Vec<ModelDigest>> {
    let mut models = Vec::new();
    for name in store.folders("models").await? {
        let Some(model) = Digest::from_hex(&name).map(ModelDigest) else {
            continue;
        };
        if exists(store, &model).await? {
            models.push(model);
        }
    }
    Ok(models)
}
