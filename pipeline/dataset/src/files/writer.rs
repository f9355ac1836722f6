//! Encodes rows as Parquet.

use bytes::Bytes;
use capstan_plan::commit::{File, FileKind};
use capstan_plan::id::Digest;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::error::{Error, Result, one_line};
use crate::record::{Record, RowHasher, kind_name};

/// Rows of a row group at most.
pub(crate) const GROUP_ROWS: usize = 1024;
/// Estimated bytes at which a row group is closed.
const GROUP_BYTES: usize = 8 << 20;
/// Key of the schema version in the metadata of a file.
pub(super) const SCHEMA_VERSION: &str = "schema_version";

/// An encoded file that is not in a store yet.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The bytes.
    pub bytes: Bytes,
    /// The record of the file.
    pub file: File,
}

/// Encodes rows as a file of `kind`. Equal rows give equal bytes.
///
/// # Errors
/// [`Error::Rows`] if the Parquet writer rejects them.
pub fn encode<T: Record>(kind: FileKind, rows: &[T]) -> Result<Encoded> {
    let mut builder = Builder::new(kind);
    for row in rows {
        if builder.push(row.clone()) {
            builder.write_group()?;
        }
    }
    builder.finish()
}

/// A file under construction, a row group at a time.
pub(super) struct Builder<T: Record> {
    kind: FileKind,
    /// Created with the first group.
    writer: Option<ArrowWriter<Vec<u8>>>,
    /// Rows of the next group.
    pending: Vec<T>,
    /// Their estimated bytes.
    pending_bytes: usize,
    written_rows: usize,
    hasher: RowHasher,
}

impl<T: Record> Builder<T> {
    pub(super) fn new(kind: FileKind) -> Self {
        Self {
            kind,
            writer: None,
            pending: Vec::new(),
            pending_bytes: 0,
            written_rows: 0,
            hasher: RowHasher::default(),
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    /// Adds a row. Returns whether a group is full and should be written.
    pub(super) fn push(&mut self, row: T) -> bool {
        self.pending_bytes += row.weight();
        self.pending.push(row);
        self.pending.len() >= GROUP_ROWS || self.pending_bytes >= GROUP_BYTES
    }

    pub(super) fn rows(&self) -> usize {
        self.written_rows + self.pending.len()
    }

    pub(super) fn write_group(&mut self) -> Result<()> {
        for row in &self.pending {
            row.hash(&mut self.hasher);
        }
        let kind = self.kind;
        let fail = |error: &dyn std::fmt::Display| Error::Rows {
            what: format!("a file of kind {}", kind_name(kind)),
            reason: one_line(&error.to_string()),
        };
        let batch = T::encode(&self.pending).map_err(|error| fail(&error))?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(
                ArrowWriter::try_new(Vec::new(), T::schema(), Some(properties::<T>()))
                    .map_err(|error| fail(&error))?,
            ),
        };
        writer
            .write(&batch)
            .and_then(|()| writer.flush())
            .map_err(|error| fail(&error))?;
        self.written_rows += self.pending.len();
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Encoded> {
        if !self.pending.is_empty() || self.writer.is_none() {
            self.write_group()?;
        }
        let writer = self.writer.take().expect("created with the first group");
        let bytes: Bytes = writer
            .into_inner()
            .map_err(|error| Error::Rows {
                what: format!("a file of kind {}", kind_name(self.kind)),
                reason: one_line(&error.to_string()),
            })?
            .into();
        Ok(Encoded {
            file: File {
                kind: self.kind,
                digest: Digest::of(&bytes),
                rows_digest: self.hasher.finish(),
                rows: self.written_rows as u64,
                size_bytes: bytes.len() as u64,
                base: None,
            },
            bytes,
        })
    }
}

/// Encoded pictures do not compress further and have no useful order: no zstd, no dictionary and
/// no statistics for them.
fn properties<T: Record>() -> WriterProperties {
    let image = ColumnPath::from("image");
    let version = T::SCHEMA_VERSION.to_string();
    let version = KeyValue::new(SCHEMA_VERSION.to_owned(), version);
    WriterProperties::builder()
        .set_key_value_metadata(Some(vec![version]))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_compression(image.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(image.clone(), false)
        .set_column_statistics_enabled(image, EnabledStatistics::None)
        .build()
}
