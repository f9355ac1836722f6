//! Manifests: the files of a dataset version.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use capstan_plan::commit::{File, FileKind};

use super::columns::{digests, optional_digests, strings};
use super::{
    Columns, DIGEST, Record, RowHasher, kind_name, optional, parse_kind, required, schema,
};

/// A file of a version. Rows of equal `part` form one shard: base, pixels, then overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRow {
    /// Ordinal of the shard within the version.
    pub part: u32,
    /// The file.
    pub file: File,
}

impl Record for ManifestRow {
    const KINDS: &'static [FileKind] = &[FileKind::Manifest];

    fn schema() -> SchemaRef {
        schema(vec![
            required("part", DataType::UInt32),
            required("kind", DataType::Utf8),
            required("digest", DIGEST),
            required("rows_digest", DIGEST),
            required("rows", DataType::UInt64),
            required("size_bytes", DataType::UInt64),
            optional("base", DIGEST),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                Arc::new(UInt32Array::from_iter_values(
                    rows.iter().map(|row| row.part),
                )),
                strings(rows.iter().map(|row| kind_name(row.file.kind))),
                digests(rows.iter().map(|row| &row.file.digest)),
                digests(rows.iter().map(|row| &row.file.rows_digest)),
                Arc::new(UInt64Array::from_iter_values(
                    rows.iter().map(|row| row.file.rows),
                )),
                Arc::new(UInt64Array::from_iter_values(
                    rows.iter().map(|row| row.file.size_bytes),
                )),
                optional_digests(rows.iter().map(|row| row.file.base.as_ref())),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let parts: &UInt32Array = columns.get("part")?;
        let kinds: &StringArray = columns.get("kind")?;
        let rows: &UInt64Array = columns.get("rows")?;
        let sizes: &UInt64Array = columns.get("size_bytes")?;
        let digests = columns.digests("digest")?;
        let rows_digests = columns.digests("rows_digest")?;
        let bases = columns.optional_digests("base")?;
        (0..columns.rows())
            .map(|row| {
                let kind = kinds.value(row);
                Ok(ManifestRow {
                    part: parts.value(row),
                    file: File {
                        kind: parse_kind(kind).ok_or_else(|| format!("unknown kind `{kind}`"))?,
                        digest: digests[row],
                        rows_digest: rows_digests[row],
                        rows: rows.value(row),
                        size_bytes: sizes.value(row),
                        base: bases[row],
                    },
                })
            })
            .collect()
    }

    /// Digests of bytes are left out because they change with the times in a base file.
    fn hash(&self, hasher: &mut RowHasher) {
        hasher
            .number(self.part.into())
            .text(kind_name(self.file.kind))
            .digest(&self.file.rows_digest)
            .number(self.file.rows);
    }
}
