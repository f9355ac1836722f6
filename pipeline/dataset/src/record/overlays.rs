//! Overlays: results of later stages, aligned with a base file row by row.

use std::sync::Arc;

use arrow_array::{BooleanArray, Float32Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Fields, SchemaRef};
use capstan_plan::commit::FileKind;
use capstan_plan::id::{ModelDigest, PairId, TextId};
use capstan_plan::row::{Captions, Curation, Verdict, Verdicts};

use super::columns::{
    digests, lists, optional_strings, split, string_lists, strings, structs, text_lists,
};
use super::pairs::hash_texts;
use super::{Columns, DIGEST, Record, RowHasher, list_of, optional, required, schema, text_fields};

impl Record for Curation {
    const KINDS: &'static [FileKind] = &[FileKind::Curation];

    fn schema() -> SchemaRef {
        schema(vec![
            required("pair_id", DIGEST),
            required("keep", DataType::Boolean),
            optional("reason", DataType::Utf8),
            list_of("texts", DIGEST),
            list_of("queries", DataType::Utf8),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let texts = digests(rows.iter().flat_map(|row| &row.texts).map(|id| &id.0));
        RecordBatch::try_new(
            Self::schema(),
            vec![
                digests(rows.iter().map(|row| &row.pair_id.0)),
                Arc::new(BooleanArray::from_iter(
                    rows.iter().map(|row| Some(row.keep)),
                )),
                optional_strings(rows.iter().map(|row| row.reason.as_deref())),
                lists(rows.iter().map(|row| row.texts.len()), texts),
                string_lists(rows.iter().map(|row| row.queries.as_slice())),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let keep: &BooleanArray = columns.get("keep")?;
        let reasons = columns.optional_texts("reason")?;
        let texts = columns.digest_lists("texts")?;
        let queries = columns.string_lists("queries")?;
        let rows = columns.digests("pair_id")?.into_iter().enumerate();
        Ok(rows
            .zip(reasons)
            .zip(texts.into_iter().zip(queries))
            .map(|(((row, id), reason), (texts, queries))| Curation {
                pair_id: PairId(id),
                keep: keep.value(row),
                reason,
                texts: texts.into_iter().map(TextId).collect(),
                queries,
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher
            .digest(&self.pair_id.0)
            .number(self.keep.into())
            .optional_text(self.reason.as_deref())
            .number(self.texts.len() as u64);
        for text in &self.texts {
            hasher.digest(&text.0);
        }
        hasher.number(self.queries.len() as u64);
        for query in &self.queries {
            hasher.text(query);
        }
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }
}

impl Record for Captions {
    const KINDS: &'static [FileKind] = &[FileKind::Captions];

    fn schema() -> SchemaRef {
        schema(vec![
            required("pair_id", DIGEST),
            list_of("texts", DataType::Struct(text_fields())),
            required("model", DIGEST),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                digests(rows.iter().map(|row| &row.pair_id.0)),
                text_lists(rows.iter().map(|row| row.texts.as_slice()))?,
                digests(rows.iter().map(|row| &row.model.0)),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let ids = columns.digests("pair_id")?.into_iter();
        let texts = columns.text_lists("texts")?;
        let models = columns.digests("model")?;
        Ok(ids
            .zip(texts)
            .zip(models)
            .map(|((id, texts), model)| Captions {
                pair_id: PairId(id),
                texts,
                model: ModelDigest(model),
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher.digest(&self.pair_id.0).digest(&self.model.0);
        hash_texts(hasher, &self.texts);
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }
}

fn verdict_fields() -> Fields {
    Fields::from(vec![
        required("text_id", DIGEST),
        required("itc", DataType::Float32),
        required("itm", DataType::Float32),
        required("kept", DataType::Boolean),
        required("reason", DataType::Utf8),
    ])
}

impl Record for Verdicts {
    const KINDS: &'static [FileKind] = &[FileKind::Verdicts];

    fn schema() -> SchemaRef {
        schema(vec![
            required("pair_id", DIGEST),
            list_of("verdicts", DataType::Struct(verdict_fields())),
            required("model", DIGEST),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let all = || rows.iter().flat_map(|row| &row.verdicts);
        let verdicts = structs(
            verdict_fields(),
            vec![
                digests(all().map(|verdict| &verdict.text_id.0)),
                Arc::new(Float32Array::from(all().map(|v| v.itc).collect::<Vec<_>>())),
                Arc::new(Float32Array::from(all().map(|v| v.itm).collect::<Vec<_>>())),
                Arc::new(BooleanArray::from_iter(all().map(|v| Some(v.kept)))),
                strings(all().map(|verdict| verdict.reason.as_str())),
            ],
        )?;
        RecordBatch::try_new(
            Self::schema(),
            vec![
                digests(rows.iter().map(|row| &row.pair_id.0)),
                lists(rows.iter().map(|row| row.verdicts.len()), verdicts),
                digests(rows.iter().map(|row| &row.model.0)),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let (lengths, inner) = columns.structs("verdicts")?;
        let itc: &Float32Array = inner.get("itc")?;
        let itm: &Float32Array = inner.get("itm")?;
        let kept: &BooleanArray = inner.get("kept")?;
        let texts = inner.digests("text_id")?.into_iter();
        let reasons = inner.texts("reason")?;
        let all = texts.zip(reasons).enumerate();
        let all = all.map(|(at, (text_id, reason))| Verdict {
            text_id: TextId(text_id),
            itc: itc.value(at),
            itm: itm.value(at),
            kept: kept.value(at),
            reason,
        });
        let verdicts = split(&lengths, all.collect());
        let ids = columns.digests("pair_id")?.into_iter();
        let models = columns.digests("model")?;
        Ok(ids
            .zip(verdicts)
            .zip(models)
            .map(|((id, verdicts), model)| Verdicts {
                pair_id: PairId(id),
                verdicts,
                model: ModelDigest(model),
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher
            .digest(&self.pair_id.0)
            .digest(&self.model.0)
            .number(self.verdicts.len() as u64);
        for verdict in &self.verdicts {
            hasher
                .digest(&verdict.text_id.0)
                .number(verdict.itc.to_bits().into())
                .number(verdict.itm.to_bits().into())
                .number(verdict.kept.into())
                .text(&verdict.reason);
        }
    }

    fn pair_id(&self) -> Option<PairId> {
        Some(self.pair_id)
    }
}
