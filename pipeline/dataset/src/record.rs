//! Rows of `data/` files: their Parquet schemas and their digests.
//!
//! Every kind of file has a schema and a schema version, which the file states under the key
//! `schema_version`. A later version only adds optional columns: readers accept older files
//! without them and ignore columns that they do not know. A change that breaks readers gets a
//! file kind of its own.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use capstan_plan::commit::FileKind;
use capstan_plan::id::{Digest, PairId};

mod columns;
mod links;
mod manifest;
mod overlays;
mod pairs;
mod tasks;

pub(crate) use columns::Columns;
pub use manifest::ManifestRow;
pub(crate) use pairs::{Picture, hash_with_pixels};
pub use tasks::TaskRow;

/// A row of a file of `data/`: [`Pair`](capstan_plan::row::Pair),
/// [`Curation`](capstan_plan::row::Curation), [`Captions`](capstan_plan::row::Captions),
/// [`Verdicts`](capstan_plan::row::Verdicts), [`Reject`](capstan_plan::row::Reject),
/// [`PageLink`](capstan_plan::row::PageLink), [`ImageLink`](capstan_plan::row::ImageLink),
/// [`ManifestRow`] and [`TaskRow`].
pub trait Record: Sized + Clone + Send + Sync + 'static {
    /// The kinds of file that hold such rows. The first is the default for writing.
    const KINDS: &'static [FileKind];

    /// Version of [`Record::schema`]. Raise it when a nullable column is added. Files that state
    /// no version are of version 1.
    const SCHEMA_VERSION: u32 = 1;

    /// Columns of the file, as this program writes them.
    fn schema() -> SchemaRef;

    /// Rows to columns.
    #[doc(hidden)]
    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError>;

    /// Columns to rows; a nullable column that the file lacks gives `None`.
    #[doc(hidden)]
    fn decode(columns: &Columns) -> Result<Vec<Self>, String>;

    /// Adds every column but times.
    #[doc(hidden)]
    fn hash(&self, hasher: &mut RowHasher);

    /// The pair that the row describes, for rows aligned with a base file.
    fn pair_id(&self) -> Option<PairId> {
        None
    }

    /// Estimated size in bytes; bounds row groups and files.
    fn weight(&self) -> usize {
        256
    }
}

/// blake3 over the values of rows. Each value is preceded by its length, so that no two
/// lists of rows share a digest.
#[derive(Default)]
pub struct RowHasher(blake3::Hasher);

impl RowHasher {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.update(&digest.0);
        self
    }

    pub(crate) fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.number(1).text(text),
            None => self.number(0),
        }
    }

    pub(crate) fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The digest of rows without times, as [`File::rows_digest`](capstan_plan::commit::File) has it.
pub fn rows_digest<T: Record>(rows: &[T]) -> Digest {
    let mut hasher = RowHasher::default();
    for row in rows {
        row.hash(&mut hasher);
    }
    hasher.finish()
}

/// The kind as records and messages write it.
pub fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Base => "base",
        FileKind::Pixels => "pixels",
        FileKind::Curation => "curation",
        FileKind::Captions => "captions",
        FileKind::Verdicts => "verdicts",
        FileKind::Rejects => "rejects",
        FileKind::Pages => "pages",
        FileKind::Images => "images",
        FileKind::PageLinks => "page_links",
        FileKind::ImageLinks => "image_links",
        FileKind::Manifest => "manifest",
        FileKind::Tasks => "tasks",
    }
}

pub(crate) fn parse_kind(name: &str) -> Option<FileKind> {
    [
        FileKind::Base,
        FileKind::Pixels,
        FileKind::Curation,
        FileKind::Captions,
        FileKind::Verdicts,
        FileKind::Rejects,
        FileKind::Pages,
        FileKind::Images,
        FileKind::PageLinks,
        FileKind::ImageLinks,
        FileKind::Manifest,
        FileKind::Tasks,
    ]
    .into_iter()
    .find(|kind| kind_name(*kind) == name)
}

pub(crate) const DIGEST: DataType = DataType::FixedSizeBinary(32);

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn required(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, false)
}

fn optional(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

/// The element of a list; Parquet calls it `element`.
fn element(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", kind, false))
}

fn list_of(name: &str, kind: DataType) -> Field {
    required(name, DataType::List(element(kind)))
}

fn text_fields() -> Fields {
    Fields::from(vec![
        required("text_id", DIGEST),
        required("text", DataType::Utf8),
        required("origin", DataType::Utf8),
    ])
}
