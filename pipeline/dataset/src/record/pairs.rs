//! Base files: the metadata of pairs, and their pictures in a file of its own.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use bytes::Bytes;
use capstan_plan::commit::FileKind;
use capstan_plan::id::{Digest, PairId};
use capstan_plan::row::{Pair, Text};

use super::columns::{digests, optional_strings, string_lists, strings, text_lists};
use super::{Columns, DIGEST, Record, RowHasher, list_of, optional, required, schema, text_fields};

/// Metadata alone: `image` is not written, and is empty when read.
///
/// A file of version 1 also has the pictures, in a column `image`; [`Picture`] reads them.
impl Record for Pair {
    const KINDS: &'static [FileKind] = &[FileKind::Base];
    const SCHEMA_VERSION: u32 = 2;

    fn schema() -> SchemaRef {
        schema(vec![
            required("pair_id", DIGEST),
            required("width", DataType::UInt32),
            required("height", DataType::UInt32),
            required("original_width", DataType::UInt32),
            required("original_height", DataType::UInt32),
            required("sha256", DIGEST),
            required("phash", DataType::UInt64),
            required("image_url", DataType::Utf8),
            required("page_url", DataType::Utf8),
            optional("archive_ref", DataType::Utf8),
            required("fetched_at_ms", DataType::Int64),
            list_of("opt_out", DataType::Utf8),
            required("policy_version", DataType::UInt32),
            optional("licence", DataType::Utf8),
            optional("attribution", DataType::Utf8),
            list_of("texts", DataType::Struct(text_fields())),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let sha256: Vec<Digest> = rows.iter().map(|row| Digest(row.sha256)).collect();
        let u32s = |value: fn(&Pair) -> u32| -> ArrayRef {
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(value)))
        };
        RecordBatch::try_new(
            Self::schema(),
            vec![
                digests(rows.iter().map(|row| &row.pair_id.0)),
                u32s(|row| row.width),
                u32s(|row| row.height),
                u32s(|row| row.original_width),
                u32s(|row| row.original_height),
                digests(sha256.iter()),
                Arc::new(UInt64Array::from_iter_values(
                    rows.iter().map(|row| row.phash),
                )),
                strings(rows.iter().map(|row| row.image_url.as_str())),
                strings(rows.iter().map(|row| row.page_url.as_str())),
                optional_strings(rows.iter().map(|row| row.archive_ref.as_deref())),
                Arc::new(Int64Array::from_iter_values(
                    rows.iter().map(|row| row.fetched_at_ms),
                )),
                string_lists(rows.iter().map(|row| row.opt_out.as_slice())),
                u32s(|row| row.policy_version),
                optional_strings(rows.iter().map(|row| row.licence.as_deref())),
                optional_strings(rows.iter().map(|row| row.attribution.as_deref())),
                text_lists(rows.iter().map(|row| row.texts.as_slice()))?,
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let u32s = |name: &str| columns.get::<UInt32Array>(name);
        let (width, height) = (u32s("width")?, u32s("height")?);
        let (original_width, original_height) = (u32s("original_width")?, u32s("original_height")?);
        let policy_version = u32s("policy_version")?;
        let phash: &UInt64Array = columns.get("phash")?;
        let fetched_at_ms: &Int64Array = columns.get("fetched_at_ms")?;
        let pair_ids = columns.digests("pair_id")?;
        let sha256 = columns.digests("sha256")?;
        let mut image_url = columns.texts("image_url")?.into_iter();
        let mut page_url = columns.texts("page_url")?.into_iter();
        let mut archive_ref = columns.optional_texts("archive_ref")?.into_iter();
        let mut licence = columns.optional_texts("licence")?.into_iter();
        let mut attribution = columns.optional_texts("attribution")?.into_iter();
        let mut opt_out = columns.string_lists("opt_out")?.into_iter();
        let mut texts = columns.text_lists("texts")?.into_iter();
        let mut rows = Vec::with_capacity(columns.rows());
        for row in 0..columns.rows() {
            rows.push(Pair {
                pair_id: PairId(pair_ids[row]),
                image: Vec::new(),
                width: width.value(row),
                height: height.value(row),
                original_width: original_width.value(row),
                original_height: original_height.value(row),
                sha256: sha256[row].0,
                phash: phash.value(row),
                image_url: image_url.next().unwrap_or_default(),
                page_url: page_url.next().unwrap_or_default(),
                archive_ref: archive_ref.next().flatten(),
                fetched_at_ms: fetched_at_ms.value(row),
                opt_out: opt_out.next().unwrap_or_default(),
                policy_version: policy_version.value(row),
                licence: licence.next().flatten(),
                attribution: attribution.next().flatten(),
                texts: texts.next().unwrap_or_default(),
            });
        }
        Ok(rows)
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher.digest(&self.pair_id.0);
        hash_metadata(self, hasher);
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }

    fn weight(&self) -> usize {
        let texts: usize = self.texts.iter().map(|text| 64 + text.text.len()).sum();
        256 + self.image.len() + self.image_url.len() + self.page_url.len() + texts
    }
}

/// Adds a pair with its picture, as the rows of a base file of version 1 were hashed.
pub(crate) fn hash_with_pixels(pair: &Pair, image: &[u8], hasher: &mut RowHasher) {
    hasher.digest(&pair.pair_id.0).bytes(image);
    hash_metadata(pair, hasher);
}

/// Every column but the id, the picture and the times.
fn hash_metadata(pair: &Pair, hasher: &mut RowHasher) {
    for number in [
        pair.width,
        pair.height,
        pair.original_width,
        pair.original_height,
        pair.policy_version,
    ] {
        hasher.number(number.into());
    }
    hasher
        .bytes(&pair.sha256)
        .number(pair.phash)
        .text(&pair.image_url)
        .text(&pair.page_url)
        .optional_text(pair.archive_ref.as_deref())
        .optional_text(pair.licence.as_deref())
        .optional_text(pair.attribution.as_deref())
        .number(pair.opt_out.len() as u64);
    for signal in &pair.opt_out {
        hasher.text(signal);
    }
    hash_texts(hasher, &pair.texts);
}

pub(super) fn hash_texts(hasher: &mut RowHasher, texts: &[Text]) {
    hasher.number(texts.len() as u64);
    for text in texts {
        hasher
            .digest(&text.text_id.0)
            .text(&text.text)
            .text(text.origin.as_str());
    }
}

/// The picture of a pair: a row of a pixels file, or of a base file of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    /// The pair.
    pub(crate) pair_id: PairId,
    /// The encoded picture.
    pub(crate) image: Bytes,
}

impl Record for Picture {
    const KINDS: &'static [FileKind] = &[FileKind::Pixels, FileKind::Base];

    fn schema() -> SchemaRef {
        schema(vec![
            required("pair_id", DIGEST),
            required("image", DataType::Binary),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                digests(rows.iter().map(|row| &row.pair_id.0)),
                Arc::new(BinaryArray::from_iter_values(
                    rows.iter().map(|row| &row.image),
                )),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let images: &BinaryArray = columns.get("image")?;
        let ids = columns.digests("pair_id")?.into_iter().enumerate();
        Ok(ids
            .map(|(row, id)| Picture {
                pair_id: PairId(id),
                image: Bytes::copy_from_slice(images.value(row)),
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher.digest(&self.pair_id.0).bytes(&self.image);
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }

    fn weight(&self) -> usize {
        64 + self.image.len()
    }
}
