//! Uploads local folders as objects and downloads them again: models and checkpoints.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use capstan_plan::id::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::blocking;
use crate::store::{Created, Store, checked, unique_beside};

/// Most files in a folder.
const MAX_FILES: usize = 10_000;

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Path within the folder, parts separated by `/`.
    pub name: String,
    /// blake3 of the bytes.
    pub digest: Digest,
    /// Size.
    pub size_bytes: u64,
}

/// blake3 over the sorted names and digests.
pub(crate) fn digest_of(entries: &[Entry]) -> Digest {
    let parts = entries
        .iter()
        .flat_map(|entry| [entry.name.as_bytes(), &entry.digest.0[..]]);
    Digest::of_parts(parts)
}

/// The files of a local folder, by name. Names that begin with a dot are skipped.
pub(crate) async fn scan(folder: &Path) -> Result<Vec<Entry>> {
    scan_some(folder, |_| true).await
}

/// The files of a local folder whose name within it is `wanted`. For a nested folder, `wanted` is
/// called with its name and a `/`, and decides whether it is entered.
pub(crate) async fn scan_some(folder: &Path, wanted: fn(&str) -> bool) -> Result<Vec<Entry>> {
    let folder = folder.to_owned();
    blocking("folder", move || {
        let mut entries = Vec::new();
        walk(&folder, "", wanted, &mut entries)?;
        if entries.is_empty() {
            return Err(Error::Folder {
                path: folder.display().to_string(),
                reason: "it holds no file".to_owned(),
            });
        }
        entries.sort();
        Ok(entries)
    })
    .await
}

fn walk(
    folder: &Path,
    within: &str,
    wanted: fn(&str) -> bool,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::local(&path, error)
    };
    for child in std::fs::read_dir(folder).map_err(fail(folder))? {
        let child = child.map_err(fail(folder))?;
        let path = child.path();
        let name = child.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let plain = checked("file of a model", &name).map(|name| format!("{within}{name}"));
        let meta = std::fs::metadata(&path).map_err(fail(&path))?;
        if meta.is_dir() {
            if wanted(&format!("{within}{name}/")) {
                walk(&path, &format!("{}/", plain?), wanted, entries)?;
            }
            continue;
        }
        if !wanted(&format!("{within}{name}")) {
            continue;
        }
        let name = plain?;
        if entries.len() == MAX_FILES {
            return Err(Error::Folder {
                path: folder.display().to_string(),
                reason: format!("it holds more than {MAX_FILES} files"),
            });
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = std::fs::File::open(&path).map_err(fail(&path))?;
        let size_bytes = std::io::copy(&mut file, &mut hasher).map_err(fail(&path))?;
        entries.push(Entry {
            name,
            digest: Digest(*hasher.finalize().as_bytes()),
            size_bytes,
        });
    }
    Ok(())
}

/// Creates the files as objects under `prefix`, one in memory at a time. The prefix or the attempt
/// determines their content, so that an object with other bytes is damaged and written again.
pub(crate) async fn upload(
    store: &Store,
    prefix: &str,
    folder: &Path,
    entries: &[Entry],
) -> Result<()> {
    for entry in entries {
        let path = folder.join(&entry.name);
        let bytes = tokio::fs::read(&path)
            .await
            .map_err(|error| Error::local(&path, error))?;
        if Digest::of(&bytes) != entry.digest {
            return Err(Error::Folder {
                path: path.display().to_string(),
                reason: "it changed while it was being stored".to_owned(),
            });
        }
        let object = format!("{prefix}/{}", entry.name);
        let bytes = Bytes::from(bytes);
        if store.create(&object, bytes.clone()).await? == Created::AlreadyExists
            && store.digest(&object).await? != Some(entry.digest)
        {
            store.replace(&object, bytes).await?;
        }
    }
    Ok(())
}

/// Downloads the objects under `prefix` to `folder` and checks their digests. The folder appears
/// complete or not at all; an empty one may exist already.
pub(crate) async fn download(
    store: &Store,
    prefix: &str,
    entries: &[Entry],
    folder: &Path,
) -> Result<()> {
    let staged = Staged::beside(folder)?;
    for entry in entries {
        let object = format!("{prefix}/{}", entry.name);
        for part in entry.name.split('/') {
            checked("file of a model", part)?;
        }
        let bytes = store.get(&object).await?;
        if Digest::of(&bytes) != entry.digest {
            return Err(Error::damaged(object, "its bytes do not have its digest"));
        }
        let path = staged.0.join(&entry.name);
        if let Some(parent) = path.parent() {
            create_folder(parent)?;
        }
        tokio::fs::write(&path, &bytes)
            .await
            .map_err(|error| Error::local(&path, error))?;
    }
    staged.appear(folder)
}

fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::local(folder, error))
}

/// A staging folder that is removed unless it was renamed.
pub(crate) struct Staged(PathBuf);

impl Staged {
    /// Creates an empty folder of a unique name beside `target`.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        if let Some(parent) = target.parent() {
            create_folder(parent)?;
        }
        let staged = Self(unique_beside(target));
        create_folder(&staged.0)?;
        Ok(staged)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Renames it to `target`, which must be absent or empty.
    pub(crate) fn appear(self, target: &Path) -> Result<()> {
        std::fs::rename(&self.0, target).map_err(|error| Error::local(target, error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
