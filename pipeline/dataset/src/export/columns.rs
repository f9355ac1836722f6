//! Encodes the rows of an export as Arrow columns.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float32Array, Int32Array, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use capstan_plan::id::Digest;
use capstan_plan::row::Pair;

use super::{Kept, Layout, Row};

/// The columns of a Parquet layout.
pub(super) fn schema(layout: Layout) -> SchemaRef {
    let mut fields = match layout {
        Layout::Pictures => vec![text("url"), text("page_url"), text("pair_id")],
        Layout::Flat | Layout::Webdataset | Layout::Files => vec![
            text("url"),
            text("caption"),
            text("key"),
            text("status"),
            maybe("error_message", DataType::Utf8),
        ],
    };
    let sides = ["width", "height", "original_width", "original_height"];
    fields.extend(sides.map(|side| Field::new(side, DataType::Int32, false)));
    fields.push(text("sha256"));
    match layout {
        Layout::Pictures => {
            let element = DataType::Struct(text_fields());
            let element = Arc::new(Field::new("element", element, false));
            fields.push(Field::new("texts", DataType::List(element), false));
        }
        Layout::Flat | Layout::Webdataset | Layout::Files => {
            fields.extend([text("page_url"), text("pair_id")]);
            // Null for a picture without a text.
            let fields_of_text = text_fields();
            let fields_of_text = fields_of_text.iter().skip(1);
            fields.extend(fields_of_text.map(|field| (**field).clone().with_nullable(true)));
        }
    }
    fields.extend(["licence", "attribution"].map(|name| maybe(name, DataType::Utf8)));
    fields.push(Field::new("jpg", DataType::Binary, false));
    Arc::new(Schema::new(fields))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn maybe(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

/// A text with its scores and its captioner.
fn text_fields() -> Fields {
    Fields::from(vec![
        text("text"),
        text("text_id"),
        text("origin"),
        maybe("itc", DataType::Float32),
        maybe("itm", DataType::Float32),
        maybe("captioner", DataType::Utf8),
    ])
}

/// One row per picture.
pub(super) fn pictures(rows: &[&Row]) -> Result<RecordBatch, ArrowError> {
    let pairs: Vec<&Pair> = rows.iter().map(|row| &row.pair).collect();
    let kept: Vec<Option<&Kept>> = rows.iter().flat_map(|row| &row.texts).map(Some).collect();
    let mut texts = vec![captions(&kept)];
    texts.extend(text_columns(&kept));
    let values = StructArray::try_new(text_fields(), texts, None)?;
    let element = Arc::new(Field::new(
        "element",
        DataType::Struct(text_fields()),
        false,
    ));
    let lengths = OffsetBuffer::from_lengths(rows.iter().map(|row| row.texts.len()));
    let lists = arrow_array::ListArray::try_new(element, lengths, Arc::new(values), None)?;
    let mut columns = vec![
        strings(pairs.iter().map(|pair| pair.image_url.clone())),
        strings(pairs.iter().map(|pair| pair.page_url.clone())),
        strings(pairs.iter().map(|pair| pair.pair_id.to_string())),
    ];
    columns.extend(facts(&pairs));
    columns.push(Arc::new(lists));
    columns.extend(rights_and_picture(&pairs));
    RecordBatch::try_new(schema(Layout::Pictures), columns)
}

/// One row per (picture, text), under these keys; a picture without a text has the empty caption.
pub(super) fn flat(
    rows: &[(&Row, Option<&Kept>)],
    keys: Vec<String>,
) -> Result<RecordBatch, ArrowError> {
    let pairs: Vec<&Pair> = rows.iter().map(|(row, _)| &row.pair).collect();
    let kept: Vec<Option<&Kept>> = rows.iter().map(|(_, kept)| *kept).collect();
    let mut columns = vec![
        strings(pairs.iter().map(|pair| pair.image_url.clone())),
        captions(&kept),
        strings(keys.into_iter()),
        strings(rows.iter().map(|_| "success".to_owned())),
        maybe_strings(rows.iter().map(|_| None)),
    ];
    columns.extend(facts(&pairs));
    columns.push(strings(pairs.iter().map(|pair| pair.page_url.clone())));
    columns.push(strings(pairs.iter().map(|pair| pair.pair_id.to_string())));
    columns.extend(text_columns(&kept));
    columns.extend(rights_and_picture(&pairs));
    RecordBatch::try_new(schema(Layout::Flat), columns)
}

/// Sizes and SHA-256.
fn facts(pairs: &[&Pair]) -> Vec<ArrayRef> {
    let sides: [fn(&Pair) -> u32; 4] = [
        |pair| pair.width,
        |pair| pair.height,
        |pair| pair.original_width,
        |pair| pair.original_height,
    ];
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(5);
    for side in sides {
        // A side of a decoded picture is far below the limit of an i32.
        let values = pairs
            .iter()
            .map(|pair| i32::try_from(side(pair)).unwrap_or(i32::MAX));
        columns.push(Arc::new(Int32Array::from_iter_values(values)));
    }
    let hex = |pair: &&Pair| Digest(pair.sha256).to_string();
    columns.push(strings(pairs.iter().map(hex)));
    columns
}

/// Everything of [`text_fields`] but the text.
fn text_columns(kept: &[Option<&Kept>]) -> Vec<ArrayRef> {
    let scores = |score: fn(&capstan_plan::row::Verdict) -> f32| -> ArrayRef {
        let of = |kept: &Option<&Kept>| kept.and_then(|kept| kept.verdict.as_ref()).map(score);
        Arc::new(Float32Array::from_iter(kept.iter().map(of)))
    };
    let texts = |of: fn(&Kept) -> Option<String>| -> ArrayRef {
        maybe_strings(kept.iter().map(|kept| kept.and_then(of)))
    };
    vec![
        texts(|kept| Some(kept.text.text_id.to_string())),
        texts(|kept| Some(kept.text.origin.as_str().to_owned())),
        scores(|verdict| verdict.itc),
        scores(|verdict| verdict.itm),
        texts(|kept| kept.writer.map(|model| model.to_string())),
    ]
}

fn captions(kept: &[Option<&Kept>]) -> ArrayRef {
    strings(
        kept.iter()
            .map(|kept| kept.map_or_else(String::new, |kept| kept.text.text.clone())),
    )
}

fn rights_and_picture(pairs: &[&Pair]) -> Vec<ArrayRef> {
    vec![
        maybe_strings(pairs.iter().map(|pair| pair.licence.clone())),
        maybe_strings(pairs.iter().map(|pair| pair.attribution.clone())),
        Arc::new(BinaryArray::from_iter_values(
            pairs.iter().map(|pair| &pair.image),
        )),
    ]
}

fn strings(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from(values.collect::<Vec<_>>()))
}

fn maybe_strings(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from(values.collect::<Vec<_>>()))
}
