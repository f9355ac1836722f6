//! Links found by a crawl, and rejects.

use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{ArrowError, DataType, Fields, SchemaRef};
use capstan_plan::commit::FileKind;
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, PageLink, Reject};

use super::columns::{lists, optional_strings, origin, split, string_lists, strings, structs};
use super::{Columns, Record, RowHasher, list_of, optional, required, schema};

impl Record for PageLink {
    const KINDS: &'static [FileKind] = &[FileKind::Pages, FileKind::PageLinks];

    fn schema() -> SchemaRef {
        schema(vec![
            required("url", DataType::Utf8),
            required("depth", DataType::UInt32),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                strings(rows.iter().map(|row| row.url.as_str())),
                Arc::new(UInt32Array::from_iter_values(
                    rows.iter().map(|row| row.depth),
                )),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let depth: &UInt32Array = columns.get("depth")?;
        let urls = columns.texts("url")?.into_iter().enumerate();
        Ok(urls
            .map(|(row, url)| PageLink {
                url,
                depth: depth.value(row),
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher.text(&self.url).number(self.depth.into());
    }
}

fn found_text_fields() -> Fields {
    Fields::from(vec![
        required("origin", DataType::Utf8),
        required("text", DataType::Utf8),
    ])
}

impl Record for ImageLink {
    const KINDS: &'static [FileKind] = &[FileKind::Images, FileKind::ImageLinks];

    fn schema() -> SchemaRef {
        schema(vec![
            required("image_url", DataType::Utf8),
            required("raw_url", DataType::Utf8),
            required("page_url", DataType::Utf8),
            list_of("texts", DataType::Struct(found_text_fields())),
            list_of("opt_out", DataType::Utf8),
            optional("licence", DataType::Utf8),
            optional("attribution", DataType::Utf8),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let all = || rows.iter().flat_map(|row| &row.texts);
        let texts = structs(
            found_text_fields(),
            vec![
                strings(all().map(|(origin, _)| origin.as_str())),
                strings(all().map(|(_, text)| text.as_str())),
            ],
        )?;
        RecordBatch::try_new(
            Self::schema(),
            vec![
                strings(rows.iter().map(|row| row.image_url.as_str())),
                strings(rows.iter().map(|row| row.raw_url.as_str())),
                strings(rows.iter().map(|row| row.page_url.as_str())),
                lists(rows.iter().map(|row| row.texts.len()), texts),
                string_lists(rows.iter().map(|row| row.opt_out.as_slice())),
                optional_strings(rows.iter().map(|row| row.licence.as_deref())),
                optional_strings(rows.iter().map(|row| row.attribution.as_deref())),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let (lengths, inner) = columns.structs("texts")?;
        let origins: &StringArray = inner.get("origin")?;
        let mut all = Vec::with_capacity(origins.len());
        for (at, text) in inner.texts("text")?.into_iter().enumerate() {
            all.push((origin(origins.value(at))?, text));
        }
        let mut texts = split(&lengths, all).into_iter();
        let mut raw_url = columns.texts("raw_url")?.into_iter();
        let mut page_url = columns.texts("page_url")?.into_iter();
        let mut opt_out = columns.string_lists("opt_out")?.into_iter();
        let mut licence = columns.optional_texts("licence")?.into_iter();
        let mut attribution = columns.optional_texts("attribution")?.into_iter();
        let urls = columns.texts("image_url")?.into_iter();
        Ok(urls
            .map(|image_url| ImageLink {
                image_url,
                raw_url: raw_url.next().unwrap_or_default(),
                page_url: page_url.next().unwrap_or_default(),
                texts: texts.next().unwrap_or_default(),
                opt_out: opt_out.next().unwrap_or_default(),
                licence: licence.next().flatten(),
                attribution: attribution.next().flatten(),
            })
            .collect())
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher
            .text(&self.image_url)
            .text(&self.raw_url)
            .text(&self.page_url)
            .number(self.texts.len() as u64);
        for (origin, text) in &self.texts {
            hasher.text(origin.as_str()).text(text);
        }
        hasher.number(self.opt_out.len() as u64);
        for signal in &self.opt_out {
            hasher.text(signal);
        }
        hasher
            .optional_text(self.licence.as_deref())
            .optional_text(self.attribution.as_deref());
    }

    fn weight(&self) -> usize {
        256 + self.texts.iter().map(|(_, text)| text.len()).sum::<usize>()
    }
}

impl Record for Reject {
    const KINDS: &'static [FileKind] = &[FileKind::Rejects];

    fn schema() -> SchemaRef {
        schema(vec![
            required("code", DataType::Utf8),
            required("url", DataType::Utf8),
            required("page_url", DataType::Utf8),
            required("is_image", DataType::Boolean),
            required("detail", DataType::Utf8),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                strings(rows.iter().map(|row| row.code.as_str())),
                strings(rows.iter().map(|row| row.url.as_str())),
                strings(rows.iter().map(|row| row.page_url.as_str())),
                Arc::new(BooleanArray::from_iter(
                    rows.iter().map(|row| Some(row.is_image)),
                )),
                strings(rows.iter().map(|row| row.detail.as_str())),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let codes: &StringArray = columns.get("code")?;
        let is_image: &BooleanArray = columns.get("is_image")?;
        let urls = columns.texts("url")?.into_iter();
        let pages = columns.texts("page_url")?;
        let details = columns.texts("detail")?;
        urls.zip(pages)
            .zip(details)
            .enumerate()
            .map(|(row, ((url, page_url), detail))| {
                let code = codes.value(row);
                Ok(Reject {
                    code: RejectCode::parse(code)
                        .ok_or_else(|| format!("unknown reject code `{code}`"))?,
                    url,
                    page_url,
                    is_image: is_image.value(row),
                    detail,
                })
            })
            .collect()
    }

    fn hash(&self, hasher: &mut RowHasher) {
        hasher
            .text(self.code.as_str())
            .text(&self.url)
            .text(&self.page_url)
            .number(self.is_image.into())
            .text(&self.detail);
    }
}
