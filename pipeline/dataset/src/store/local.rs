//! A local folder as an object store whose writes survive a power failure.
//!
//! `object_store` stages a file and links or renames it, but syncs nothing: after a crash a name
//! can stand for an empty or truncated file. Here the staged file is synced before it gets its
//! name, and the folder is synced afterwards.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Tries to create the folder of an object while deletions remove empty folders.
const FOLDER_TRIES: u32 = 16;

/// A [`LocalFileSystem`] with synced writes.
#[derive(Debug)]
pub(super) struct SyncedFolder(LocalFileSystem);

impl SyncedFolder {
    pub(super) fn new(inner: LocalFileSystem) -> Self {
        Self(inner)
    }
}

impl fmt::Display for SyncedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for SyncedFolder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let path = self.0.path_to_filesystem(location)?;
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.0.put_opts(location, payload, options).await,
        };
        let name = location.to_string();
        let write = move || match write(&path, &payload, create) {
            Ok(()) => Ok(PutResult {
                e_tag: None,
                version: None,
            }),
            Err(error) if create && error.kind() == ErrorKind::AlreadyExists => {
                Err(object_store::Error::AlreadyExists {
                    path: name,
                    source: Box::new(error),
                })
            }
            Err(error) => Err(generic(error)),
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written,
            Err(error) => Err(generic(error)),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic {
        store: "local folder",
        source: Box::new(error),
    }
}

/// Writes an object: stage, sync, link or rename, sync the folder.
fn write(path: &FsPath, payload: &PutPayload, create: bool) -> io::Result<()> {
    // The link below decides. This only spares staging and syncing bytes for nothing.
    if create && path.exists() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let (mut file, staged) = stage(path)?;
    let written = payload
        .iter()
        .try_for_each(|chunk| file.write_all(chunk))
        .and_then(|()| file.sync_all());
    drop(file);
    let named = written.and_then(|()| match create {
        true => std::fs::hard_link(&staged, path),
        false => std::fs::rename(&staged, path),
    });
    if create || named.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    named?;
    sync_folder(path)
}

/// Opens a staging file `<name>#<n>`, which listings leave out, and creates its folder.
fn stage(path: &FsPath) -> io::Result<(File, PathBuf)> {
    let mut folder_tries = 0;
    let mut number = 1u32;
    loop {
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{number}"));
        let staged = PathBuf::from(staged);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&staged)
        {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == ErrorKind::NotFound && folder_tries < FOLDER_TRIES => {
                folder_tries += 1;
                create_folder(path)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Creates the folder of `path` and syncs every folder that gets a new entry.
fn create_folder(path: &FsPath) -> io::Result<()> {
    let ancestors = path.ancestors().skip(1);
    let missing: Vec<_> = ancestors.take_while(|folder| !folder.exists()).collect();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    missing.into_iter().try_for_each(sync_folder)
}

/// Makes the entry of `path` in its folder durable. A deletion may have removed an empty folder
/// in the meantime; then there is no entry left to sync.
fn sync_folder(path: &FsPath) -> io::Result<()> {
    // Only on Unix can a folder be opened and synced.
    let Some(folder) = path.parent().filter(|_| cfg!(unix)) else {
        return Ok(());
    };
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
