//! Base files: pairs with their pictures.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use capstan_plan::commit::FileKind;
use capstan_plan::id::{Digest, PairId};
use capstan_plan::row::{Pair, Text};

use super::columns::{digests, maybe_strings, string_lists, strings, text_lists};
use super::{Columns, DIGEST, Record, RowHasher, list_of, needed, optional, schema, text_fields};

impl Record for Pair {
    const KINDS: &'static [FileKind] = &[FileKind::Base];

    fn schema() -> SchemaRef {
        schema(vec![
            needed("pair_id", DIGEST),
            needed("image", DataType::Binary),
            needed("width", DataType::UInt32),
            needed("height", DataType::UInt32),
            needed("original_width", DataType::UInt32),
            needed("original_height", DataType::UInt32),
            needed("sha256", DIGEST),
            needed("phash", DataType::UInt64),
            needed("image_url", DataType::Utf8),
            needed("page_url", DataType::Utf8),
            optional("archive_ref", DataType::Utf8),
            needed("fetched_at_ms", DataType::Int64),
            list_of("opt_out", DataType::Utf8),
            needed("policy_version", DataType::UInt32),
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
                Arc::new(BinaryArray::from_iter_values(
                    rows.iter().map(|row| &row.image),
                )),
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
                maybe_strings(rows.iter().map(|row| row.archive_ref.as_deref())),
                Arc::new(Int64Array::from_iter_values(
                    rows.iter().map(|row| row.fetched_at_ms),
                )),
                string_lists(rows.iter().map(|row| row.opt_out.as_slice())),
                u32s(|row| row.policy_version),
                maybe_strings(rows.iter().map(|row| row.licence.as_deref())),
                maybe_strings(rows.iter().map(|row| row.attribution.as_deref())),
                text_lists(rows.iter().map(|row| row.texts.as_slice()))?,
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let u32s = |name: &str| columns.get::<UInt32Array>(name);
        let images: Option<&BinaryArray> = match columns.has("image") {
            true => Some(columns.get("image")?),
            false => None,
        };
        let (width, height) = (u32s("width")?, u32s("height")?);
        let (original_width, original_height) = (u32s("original_width")?, u32s("original_height")?);
        let policy_version = u32s("policy_version")?;
        let phash: &UInt64Array = columns.get("phash")?;
        let fetched_at_ms: &Int64Array = columns.get("fetched_at_ms")?;
        let pair_ids = columns.digests("pair_id")?;
        let sha256 = columns.digests("sha256")?;
        let mut image_url = columns.texts("image_url")?.into_iter();
        let mut page_url = columns.texts("page_url")?.into_iter();
        let mut archive_ref = columns.maybe_texts("archive_ref")?.into_iter();
        let mut licence = columns.maybe_texts("licence")?.into_iter();
        let mut attribution = columns.maybe_texts("attribution")?.into_iter();
        let mut opt_out = columns.string_lists("opt_out")?.into_iter();
        let mut texts = columns.text_lists("texts")?.into_iter();
        let mut rows = Vec::with_capacity(columns.rows());
        for row in 0..columns.rows() {
            rows.push(Pair {
                pair_id: PairId(pair_ids[row]),
                image: images.map_or_else(Vec::new, |images| images.value(row).to_vec()),
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
        hasher.digest(&self.pair_id.0).bytes(&self.image);
        for number in [
            self.width,
            self.height,
            self.original_width,
            self.original_height,
            self.policy_version,
        ] {
            hasher.number(number.into());
        }
        hasher
            .bytes(&self.sha256)
            .number(self.phash)
            .text(&self.image_url)
            .text(&self.page_url)
            .maybe(self.archive_ref.as_deref())
            .maybe(self.licence.as_deref())
            .maybe(self.attribution.as_deref())
            .number(self.opt_out.len() as u64);
        for signal in &self.opt_out {
            hasher.text(signal);
        }
        hash_texts(hasher, &self.texts);
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }

    fn weight(&self) -> usize {
        let texts: usize = self.texts.iter().map(|text| 64 + text.text.len()).sum();
        256 + self.image.len() + self.image_url.len() + self.page_url.len() + texts
    }
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
