//! Content-addressed Parquet files.
use crate::error::Result;
use crate::record::Record;
use crate::store::Store;
use capstan_plan::commit::{File, FileKind};
use capstan_plan::row::Pair;

/// Writes base files from pairs as they come, a new file every `rows_per_file` rows.
pub struct PairWriter {}
impl PairWriter {
    /// Nothing is written before the first file is full.
    pub fn new(_store: &Store, _rows_per_file: usize) -> Self {
        todo!()
    }
    /// Takes a pair; writes a file where one is full.
    pub async fn push(&mut self, _pair: Pair) -> Result<()> {
        todo!()
    }
    /// Writes what is left and gives every file, in order.
    pub async fn finish(self) -> Result<Vec<File>> {
        todo!()
    }
}

/// Writes rows as one file of `kind` (`Rejects, Pages, Images, PageLinks, ImageLinks ...`).
pub async fn write<T: Record>(_store: &Store, _kind: FileKind, _rows: Vec<T>) -> Result<File> {
    todo!()
}
/// Writes an overlay aligned with `base`: as many rows, equal pair ids (checked).
pub async fn write_overlay<T: Record>(_store: &Store, _base: &File, _rows: Vec<T>) -> Result<File> {
    todo!()
}
/// Reads all rows of a file.
pub async fn read<T: Record>(_store: &Store, _file: &File) -> Result<Vec<T>> {
    todo!()
}
/// Whether `Pair::image` is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// Encoded bytes.
    Read,
    /// Left empty; not even fetched.
    Skip,
}
/// Reads a base file a row group at a time.
pub struct Pairs {}
impl Pairs {
    /// Reads the footer.
    pub async fn open(_store: &Store, _base: &File, _pixels: Pixels) -> Result<Self> {
        todo!()
    }
    /// The next rows (a row group); `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Pair>>> {
        todo!()
    }
}
/// Encoded pictures of these rows of a base file, in the order asked for. Reads the row groups concerned, once each.
pub async fn pictures(_store: &Store, _base: &File, _rows: &[u32]) -> Result<Vec<Vec<u8>>> {
    todo!()
}
