//! Decodes rows from Parquet: a row group at a time, and only the columns wanted.
//!
//! Fetching is async; decoding runs on a blocking thread.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use capstan_plan::commit::File;
use capstan_plan::id::Digest;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};

use super::writer::SCHEMA_VERSION;
use super::{blocking, path};
use crate::error::{Error, Result};
use crate::record::{Columns, Record};
use crate::store::Store;

/// A file up to this size is fetched whole and checked against its digest.
const WHOLE_BYTES: u64 = 4 << 20;
/// Bytes that are fetched from the end of a file first. A larger footer takes a second request.
const TAIL_BYTES: u64 = 64 << 10;
/// Largest footer that is read. Files of this program stay far below it.
const FOOTER_BYTES: u64 = 64 << 20;
/// The last eight bytes: length of the footer and magic number.
const TRAILER_BYTES: u64 = 8;

/// How a file beyond [`WHOLE_BYTES`] is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetch {
    /// The footer and the column chunks that are wanted. A copy in the cache is used if there is one.
    Ranges,
    /// As a whole into the cache, if it has one that can keep the file; then from there.
    Cached,
}

/// Reads the rows of a file, group by group.
pub(crate) struct Reader<T> {
    store: Store,
    file: File,
    path: String,
    metadata: ArrowReaderMetadata,
    /// Columns to read.
    mask: ProjectionMask,
    /// The whole file, if it is small.
    whole: Option<Bytes>,
    fetch: Fetch,
    next: usize,
    rows: PhantomData<T>,
}

impl<T: Record> Reader<T> {
    /// Reads the footer of `file` and checks its schema and rows against the record.
    ///
    /// The columns of `T` are fetched, as ranges. If they are most of the file, it is fetched
    /// whole, for the next reader as well.
    pub(crate) async fn open(store: &Store, file: &File) -> Result<Self> {
        let mut reader = Self::open_footer(store, file).await?;
        if 2 * reader.wanted_bytes() >= file.size_bytes {
            reader.fetch = Fetch::Cached;
        }
        Ok(reader)
    }

    /// As [`Reader::open`], for a file that will be read again: it is fetched into the cache.
    pub(crate) async fn open_cached(store: &Store, file: &File) -> Result<Self> {
        let mut reader = Self::open_footer(store, file).await?;
        reader.fetch = Fetch::Cached;
        Ok(reader)
    }

    async fn open_footer(store: &Store, file: &File) -> Result<Self> {
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
        Self::new(store, file, metadata, whole)
    }

    /// Reads bytes of a file that the caller has already.
    pub(crate) fn over(store: &Store, file: &File, bytes: Bytes) -> Result<Self> {
        let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())
            .map_err(|error| Error::damaged(path(&file.digest), error))?;
        Self::new(store, file, metadata, Some(bytes))
    }

    fn new(
        store: &Store,
        file: &File,
        metadata: ArrowReaderMetadata,
        whole: Option<Bytes>,
    ) -> Result<Self> {
        let path = path(&file.digest);
        let columns = columns::<T>(&metadata).map_err(|reason| Error::damaged(&path, reason))?;
        let rows = metadata.metadata().file_metadata().num_rows() as u64;
        if rows != file.rows {
            let expected = file.rows;
            return Err(Error::damaged(
                &path,
                format!("it has {rows} rows, not {expected}"),
            ));
        }
        Ok(Self {
            store: store.clone(),
            file: file.clone(),
            path,
            mask: ProjectionMask::roots(metadata.parquet_schema(), columns),
            metadata,
            whole,
            fetch: Fetch::Ranges,
            next: 0,
            rows: PhantomData,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Size of the wanted columns.
    fn wanted_bytes(&self) -> u64 {
        let groups = self.metadata.metadata().row_groups().iter();
        let columns = groups.flat_map(|group| group.columns().iter().enumerate());
        columns
            .filter(|(at, _)| self.mask.leaf_included(*at))
            .map(|(_, column)| column.byte_range().1)
            .sum()
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

    /// Fetches the wanted columns of a group; adjacent columns in one request.
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
            let bytes = match self.fetch {
                Fetch::Ranges => self.store.get_range(&self.path, start..end).await?,
                Fetch::Cached => self.store.get_range_cached(&self.path, start..end).await?,
            };
            chunks.push((start, bytes));
        }
        Ok(Chunks { size, chunks })
    }
}

/// Indices of the columns of `T` in the file.
///
/// A nullable column that a file of an older schema version lacks is left out, and columns that
/// `T` does not know are ignored.
fn columns<T: Record>(metadata: &ArrowReaderMetadata) -> Result<Vec<usize>, String> {
    let is_older = schema_version(metadata)? < T::SCHEMA_VERSION;
    let found = metadata.schema();
    let mut columns = Vec::new();
    for field in T::schema().fields() {
        let name = field.name();
        let Some((at, column)) = found.column_with_name(name) else {
            if is_older && field.is_nullable() {
                continue;
            }
            return Err(format!("column `{name}` is missing"));
        };
        if column.data_type() != field.data_type() {
            let (found, expected) = (column.data_type(), field.data_type());
            return Err(format!(
                "column `{name}` is of type {found}, not {expected}"
            ));
        }
        if column.is_nullable() && !field.is_nullable() {
            return Err(format!("column `{name}` may hold nulls"));
        }
        columns.push(at);
    }
    Ok(columns)
}

/// The schema version that a file states; 1 if it states none.
fn schema_version(metadata: &ArrowReaderMetadata) -> Result<u32, String> {
    let metadata = metadata.metadata().file_metadata();
    let mut entries = metadata.key_value_metadata().into_iter().flatten();
    let version = entries.find(|entry| entry.key == SCHEMA_VERSION);
    match version.and_then(|entry| entry.value.as_deref()) {
        None => Ok(1),
        Some(version) => version
            .parse()
            .map_err(|_| format!("its schema version `{version}` is no number")),
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
