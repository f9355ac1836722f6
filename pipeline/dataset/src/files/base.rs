//! Base files from pairs: metadata and pixels, row by row, bounded by rows and bytes.

use bytes::Bytes;
use capstan_plan::commit::{File, FileKind};
use capstan_plan::row::Pair;
use capstan_plan::stage::Storing;

use super::writer::Builder;
use super::{blocking, put};
use crate::error::Result;
use crate::record::{Picture, Record};
use crate::store::Store;

/// Bounds of a base file and its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileBounds {
    /// Rows at most; 0 counts as 1.
    pub rows: usize,
    /// Estimated bytes of both files at most. A pair that exceeds them alone has files of its own.
    pub bytes: u64,
}

impl From<&Storing> for FileBounds {
    fn from(storing: &Storing) -> Self {
        Self {
            rows: storing.rows_per_file,
            bytes: storing.bytes_per_file,
        }
    }
}

/// So many rows, and the default bound of bytes.
impl From<usize> for FileBounds {
    fn from(rows: usize) -> Self {
        Self {
            rows,
            ..Self::from(&Storing::default())
        }
    }
}

/// Writes base files and their pixels from pairs as they arrive.
///
/// Where a file ends depends on the rows and the bounds alone. Holds one base file and its pixels
/// in memory at most.
pub struct PairWriter {
    store: Store,
    bounds: FileBounds,
    /// The files being built.
    base: Builder<Pair>,
    pixels: Builder<Picture>,
    /// Estimated bytes of the two.
    bytes: u64,
    /// Files written: each base, then its pixels.
    files: Vec<File>,
}

impl PairWriter {
    /// Nothing is written before the first file is full.
    pub fn new(store: &Store, bounds: impl Into<FileBounds>) -> Self {
        Self {
            store: store.clone(),
            bounds: bounds.into(),
            base: Builder::new(FileKind::Base),
            pixels: Builder::new(FileKind::Pixels),
            bytes: 0,
            files: Vec::new(),
        }
    }

    /// Adds a pair; writes the files if they are full.
    ///
    /// # Errors
    /// Those of [`Store::create`]; the writer must not be used afterwards.
    pub async fn push(&mut self, mut pair: Pair) -> Result<()> {
        let picture = Picture {
            pair_id: pair.pair_id,
            image: Bytes::from(std::mem::take(&mut pair.image)),
        };
        let weight = (pair.weight() + picture.weight()) as u64;
        if self.base.rows() > 0 && self.bytes + weight > self.bounds.bytes {
            self.write_files().await?;
        }
        self.bytes += weight;
        if self.base.push(pair) {
            write_group(&mut self.base).await?;
        }
        if self.pixels.push(picture) {
            write_group(&mut self.pixels).await?;
        }
        if self.base.rows() >= self.bounds.rows.max(1) {
            self.write_files().await?;
        }
        Ok(())
    }

    /// Writes the last files. Returns every file in order, each base before its pixels; none if
    /// there were no pairs.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn finish(mut self) -> Result<Vec<File>> {
        if self.base.rows() > 0 {
            self.write_files().await?;
        }
        Ok(self.files)
    }

    async fn write_files(&mut self) -> Result<()> {
        let base = std::mem::replace(&mut self.base, Builder::new(FileKind::Base));
        let pixels = std::mem::replace(&mut self.pixels, Builder::new(FileKind::Pixels));
        self.bytes = 0;
        let encode = move || Ok((base.finish()?, pixels.finish()?));
        let (base, pixels) = blocking("base file", encode).await?;
        let base = put(&self.store, base).await?;
        let mut pixels = put(&self.store, pixels).await?;
        pixels.base = Some(base.digest);
        self.files.extend([base, pixels]);
        Ok(())
    }
}

/// Encodes the pending rows on a blocking thread.
async fn write_group<T: Record>(open: &mut Builder<T>) -> Result<()> {
    let kind = open.kind();
    let mut full = std::mem::replace(open, Builder::new(kind));
    let encode = move || {
        full.write_group()?;
        Ok(full)
    };
    *open = blocking("base file", encode).await?;
    Ok(())
}

/// Writes pairs that are all in memory. See [`PairWriter`].
///
/// # Errors
/// Those of [`Store::create`].
pub async fn write_pairs(
    store: &Store,
    bounds: impl Into<FileBounds>,
    pairs: impl IntoIterator<Item = Pair>,
) -> Result<Vec<File>> {
    let mut writer = PairWriter::new(store, bounds);
    for pair in pairs {
        writer.push(pair).await?;
    }
    writer.finish().await
}
