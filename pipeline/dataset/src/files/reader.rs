//! Parquet bytes to rows: a row group at a time, and only the columns wanted.
//!
//! What is fetched is awaited; what is decoded runs on a blocking thread.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::{Array, BinaryArray, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::{Buf, Bytes};
use capstan_plan::commit::{File, FileKind};
use capstan_plan::id::Digest;
use capstan_plan::row::Pair;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};

use super::{blocking, path};
use crate::error::{Error, Result};
use crate::record::{Columns, Record, RowHasher};
use crate::store::Store;

/// A file up to this size is fetched whole and held against its digest.
const WHOLE_BYTES: u64 = 4 << 20;
/// Guess of a footer's size; one fetch where it is right.
const TAIL_BYTES: u64 = 64 << 10;
/// A footer beyond this is not ours.
const FOOTER_BYTES: u64 = 64 << 20;
/// The last eight bytes: length of the footer, magic.
const TRAILER_BYTES: u64 = 8;

/// Reads the rows of a file, group by group.
pub(crate) struct Reader<T> {
    store: Store,
    file: File,
    path: String,
    metadata: ArrowReaderMetadata,
    /// Columns to read.
    mask: ProjectionMask,
    /// The file, where it is small.
    whole: Option<Bytes>,
    next: usize,
    rows: PhantomData<T>,
}

impl<T: Record> Reader<T> {
    /// Reads the footer of `file` and holds its schema and rows against what the record says.
    pub(crate) async fn open(store: &Store, file: &File, without: &[&str]) -> Result<Self> {
        let path = path(&file.digest);
        if !T::KINDS.contains(&file.kind) {
            return Err(Error::damaged(
                &path,
                format!("it is of kind {:?}, not of {:?}", file.kind, T::KINDS),
            ));
        }
        let (whole, metadata) = match file.size_bytes <= WHOLE_BYTES {
            true => {
                let bytes = read_whole(store, file, &path).await?;
                let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new());
                (Some(bytes), metadata)
            }
            false => (None, read_footer(store, file, &path).await?),
        };
        let metadata = metadata.map_err(|error| Error::damaged(&path, error))?;
        Self::new(store, file, metadata, whole, without)
    }

    /// Reads bytes of a file that the caller has already, all columns.
    pub(crate) fn over(store: &Store, file: &File, bytes: Bytes) -> Result<Self> {
        let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())
            .map_err(|error| Error::damaged(path(&file.digest), error))?;
        Self::new(store, file, metadata, Some(bytes), &[])
    }

    fn new(
        store: &Store,
        file: &File,
        metadata: ArrowReaderMetadata,
        whole: Option<Bytes>,
        without: &[&str],
    ) -> Result<Self> {
        let path = path(&file.digest);
        if metadata.schema().fields() != T::schema().fields() {
            return Err(Error::damaged(
                &path,
                "its columns are not those of its kind",
            ));
        }
        let rows = metadata.metadata().file_metadata().num_rows() as u64;
        if rows != file.rows {
            let wanted = file.rows;
            return Err(Error::damaged(
                &path,
                format!("it has {rows} rows, not {wanted}"),
            ));
        }
        let fields = metadata.schema().fields().iter().enumerate();
        let columns: Vec<usize> = fields
            .filter(|(_, field)| !without.contains(&field.name().as_str()))
            .map(|(at, _)| at)
            .collect();
        Ok(Self {
            store: store.clone(),
            file: file.clone(),
            path,
            mask: ProjectionMask::roots(metadata.parquet_schema(), columns),
            metadata,
            whole,
            next: 0,
            rows: PhantomData,
        })
    }

    pub(crate) fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    pub(crate) fn rows_of(&self, group: usize) -> u64 {
        self.metadata.metadata().row_group(group).num_rows() as u64
    }

    /// The rows of the next group; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<T>>> {
        if self.next >= self.groups() {
            return Ok(None);
        }
        self.next += 1;
        self.group(self.next - 1).await.map(Some)
    }

    /// The rows of one group.
    pub(crate) async fn group(&self, group: usize) -> Result<Vec<T>> {
        let chunks = self.fetch(group).await?;
        let (metadata, mask) = (self.metadata.clone(), self.mask.clone());
        let (path, rows) = (self.path.clone(), self.rows_of(group) as usize);
        blocking(&self.path, move || {
            decode(chunks, metadata, mask, group, rows)
                .map_err(|reason| Error::damaged(path, reason))
        })
        .await
    }

    /// The bytes of the wanted columns of a group; neighbours come in one fetch.
    async fn fetch(&self, group: usize) -> Result<Chunks> {
        let size = self.file.size_bytes;
        if let Some(whole) = &self.whole {
            return Ok(Chunks {
                size,
                chunks: vec![(0, whole.clone())],
            });
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (at, column) in self
            .metadata
            .metadata()
            .row_group(group)
            .columns()
            .iter()
            .enumerate()
        {
            if !self.mask.leaf_included(at) {
                continue;
            }
            let (start, length) = column.byte_range();
            match ranges.last_mut() {
                Some((_, end)) if *end == start => *end += length,
                _ => ranges.push((start, start + length)),
            }
        }
        let mut chunks = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            chunks.push((start, self.store.get_range(&self.path, start..end).await?));
        }
        Ok(Chunks { size, chunks })
    }
}

async fn read_whole(store: &Store, file: &File, path: &str) -> Result<Bytes> {
    let bytes = store.get(path).await?;
    if Digest::of(&bytes) != file.digest {
        return Err(Error::damaged(path, "its bytes do not have its digest"));
    }
    Ok(bytes)
}

async fn read_footer(
    store: &Store,
    file: &File,
    path: &str,
) -> Result<Result<ArrowReaderMetadata, ParquetError>> {
    let size = file.size_bytes;
    let mut tail = store
        .get_range(path, size.saturating_sub(TAIL_BYTES)..size)
        .await?;
    let short = || Error::damaged(path, "it is cut short");
    if (tail.len() as u64) < TRAILER_BYTES {
        return Err(short());
    }
    let trailer = tail.slice(tail.len() - TRAILER_BYTES as usize..);
    if &trailer[4..] != b"PAR1" {
        return Err(short());
    }
    let footer = u64::from(trailer.clone().get_u32_le());
    let needed = footer + TRAILER_BYTES;
    if footer > FOOTER_BYTES || needed > size {
        return Err(short());
    }
    if needed > tail.len() as u64 {
        tail = store.get_range(path, size - needed..size).await?;
        if (tail.len() as u64) < needed {
            return Err(short());
        }
    }
    let start = tail.len() - needed as usize;
    let footer = &tail[start..tail.len() - TRAILER_BYTES as usize];
    Ok(
        ParquetMetaDataReader::decode_metadata(footer).and_then(|metadata| {
            ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())
        }),
    )
}

fn decode<T: Record>(
    chunks: Chunks,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    group: usize,
    rows: usize,
) -> Result<Vec<T>, String> {
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata)
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_batch_size(rows.max(1))
        .build()
        .map_err(|error| error.to_string())?;
    let mut decoded = Vec::with_capacity(rows);
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        decoded.extend(T::decode(&Columns::new(batch))?);
    }
    match decoded.len() == rows {
        true => Ok(decoded),
        false => Err(format!(
            "row group {group} holds {} of {rows} rows",
            decoded.len()
        )),
    }
}

/// The parts of a file that were fetched.
struct Chunks {
    size: u64,
    /// Offset and bytes.
    chunks: Vec<(u64, Bytes)>,
}

impl Chunks {
    /// What was fetched from `start` on.
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        self.chunks
            .iter()
            .find(|(offset, bytes)| (*offset..offset + bytes.len() as u64).contains(&start))
            .map(|(offset, bytes)| bytes.slice((start - offset) as usize..))
            .ok_or_else(|| ParquetError::General(format!("offset {start} was not fetched")))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        match length <= bytes.len() {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes at {start}"))),
        }
    }
}

/// A base file's picture alone; for reading only.
#[derive(Clone)]
pub(super) struct Picture(pub(super) Bytes);

/// Every column of a base file but the picture.
pub(super) const BUT_IMAGE: &[&str] = &[
    "pair_id",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
    "phash",
    "image_url",
    "page_url",
    "archive_ref",
    "fetched_at_ms",
    "opt_out",
    "policy_version",
    "licence",
    "attribution",
    "texts",
];

impl Record for Picture {
    const KINDS: &'static [FileKind] = &[FileKind::Base];

    fn schema() -> SchemaRef {
        Pair::schema()
    }

    fn encode(_: &[Self]) -> Result<RecordBatch, ArrowError> {
        Err(ArrowError::NotYetImplemented(
            "pictures alone are only read".to_owned(),
        ))
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let images: &BinaryArray = columns.get("image")?;
        Ok((0..images.len())
            .map(|row| Self(Bytes::copy_from_slice(images.value(row))))
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher.bytes(&self.0);
    }
}
