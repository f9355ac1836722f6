//! A folder of pictures: `<name>.jpg`, and beside it `<name>.txt` with a text per line, the form that
//! a `folder` import reads and that trainers of diffusion models expect.
//!
//! A picture that was imported from a folder keeps its path and the stem of its name. Any other gets
//! a key, in a folder per `rows_per_file` pictures, as img2dataset does with `output_format=files`.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use capstan_plan::id::Digest;
use capstan_plan::row::Pair;

use super::{Row, key};
use crate::error::{Error, Result};

/// Extensions that are dropped from the name of an imported picture, which is exported as JPEG.
const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];
/// Greatest length of a path that is kept. File systems allow 255 bytes per name.
const MAX_PATH_BYTES: usize = 200;

/// The folder being written.
pub(super) struct Folder {
    folder: PathBuf,
    rows_per_file: usize,
    /// Hashes of the names used so far, eight bytes each.
    used: HashSet<u64>,
    /// Pictures that got a key.
    keyed: usize,
    files: u64,
    size_bytes: u64,
}

impl Folder {
    pub(super) fn new(folder: &Path, rows_per_file: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            rows_per_file,
            used: HashSet::new(),
            keyed: 0,
            files: 0,
            size_bytes: 0,
        }
    }

    pub(super) fn write(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let name = self.name(&row.pair);
            // One text per line: line breaks within a text become blanks.
            let lines: String = row
                .texts
                .iter()
                .map(|kept| kept.text.text.replace(['\n', '\r'], " ") + "\n")
                .collect();
            self.add(&format!("{name}.jpg"), &row.pair.image)?;
            self.add(&format!("{name}.txt"), lines.as_bytes())?;
        }
        Ok(())
    }

    /// Number of files and their size.
    pub(super) fn finish(self) -> (u64, u64) {
        (self.files, self.size_bytes)
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let write = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mut file = std::fs::File::create_new(&path)?;
            std::io::Write::write_all(&mut file, bytes)
        };
        write().map_err(|error| Error::local(&path, error))?;
        self.files += 1;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// A name that no other picture of this export has: its path in the folder that it was imported
    /// from (with the extension if another picture has the same stem), else a key.
    fn name(&mut self, pair: &Pair) -> String {
        if let Some(path) = imported_path(pair) {
            let names = [without_extension(path), path];
            if let Some(name) = names.into_iter().find(|name| self.take(name)) {
                return name.to_owned();
            }
        }
        loop {
            let (file, row) = (
                self.keyed / self.rows_per_file,
                self.keyed % self.rows_per_file,
            );
            self.keyed += 1;
            let name = format!("{file:05}/{}", key(file as u64, row, self.rows_per_file));
            if self.take(&name) {
                return name;
            }
        }
    }

    /// Reserves a name; false if it is taken. Some file systems do not distinguish names that differ
    /// only in case.
    fn take(&mut self, name: &str) -> bool {
        let hash = Digest::of(name.to_lowercase().as_bytes());
        self.used.insert(hash.prefix_u64())
    }
}

/// The path of a picture that a `folder` or `coco_captions` import read. `None` for one from a tar or
/// Parquet file, whose key is not meant for people, and for a path that is not plain.
fn imported_path(pair: &Pair) -> Option<&str> {
    let (_, path) = pair.image_url.strip_prefix("file:")?.split_once('/')?;
    let is_own_path = pair.archive_ref.as_deref() == Some(path);
    let is_plain = |part| matches!(part, Component::Normal(_));
    let is_usable = is_own_path
        && path.len() <= MAX_PATH_BYTES
        && !path.starts_with(['_', '.'])
        && Path::new(path).components().all(is_plain);
    is_usable.then_some(path)
}

fn without_extension(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, extension))
            if PICTURES.contains(&extension.to_lowercase().as_str())
                && !stem.is_empty()
                && !stem.ends_with('/') =>
        {
            stem
        }
        _ => path,
    }
}
