//! Rows of an export as Arrow columns.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float32Array, Int32Array, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use capstan_plan::id::Digest;
use capstan_plan::row::Pair;

use super::{Kept, Layout, Row};

/// Columns of a layout of Parquet.
pub(super) fn schema(layout: Layout) -> SchemaRef {
    let mut fields = match layout {
        Layout::Pictures => vec![text("url"), text("page_url"), text("pair_id")],
        Layout::Flat | Layout::Webdataset => vec![
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
        Layout::Flat | Layout::Webdataset => {
            fields.extend([text("page_url"), text("pair_id")]);
            fields.extend(text_fields().iter().skip(1).map(|field| (**field).clone()));
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

/// A text with what is said of it.
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

/// A row per picture.
pub(super) fn pictures(rows: &[&Row]) -> Result<RecordBatch, ArrowError> {
    let pairs: Vec<&Pair> = rows.iter().map(|row| &row.pair).collect();
    let kept: Vec<&Kept> = rows.iter().flat_map(|row| &row.texts).collect();
    let mut texts = vec![strings(kept.iter().map(|kept| kept.text.text.clone()))];
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

/// A row per (picture, text), under these keys.
pub(super) fn flat(rows: &[(&Row, &Kept)], keys: Vec<String>) -> Result<RecordBatch, ArrowError> {
    let pairs: Vec<&Pair> = rows.iter().map(|(row, _)| &row.pair).collect();
    let kept: Vec<&Kept> = rows.iter().map(|(_, kept)| *kept).collect();
    let mut columns = vec![
        strings(pairs.iter().map(|pair| pair.image_url.clone())),
        strings(kept.iter().map(|kept| kept.text.text.clone())),
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

/// Sides and SHA-256.
fn facts(pairs: &[&Pair]) -> Vec<ArrayRef> {
    let sides: [fn(&Pair) -> u32; 4] = [
        |pair| pair.width,
        |pair| pair.height,
        |pair| pair.original_width,
        |pair| pair.original_height,
    ];
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(5);
    for side in sides {
        // A side of a decoded picture is far below the limit.
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
fn text_columns(kept: &[&Kept]) -> Vec<ArrayRef> {
    let scores = |score: fn(&capstan_plan::row::Verdict) -> f32| -> ArrayRef {
        let of = |kept: &&Kept| kept.verdict.as_ref().map(score);
        Arc::new(Float32Array::from_iter(kept.iter().map(of)))
    };
    vec![
        strings(kept.iter().map(|kept| kept.text.text_id.to_string())),
        strings(kept.iter().map(|kept| kept.text.origin.as_str().to_owned())),
        scores(|verdict| verdict.itc),
        scores(|verdict| verdict.itm),
        maybe_strings(
            kept.iter()
                .map(|kept| kept.writer.map(|model| model.to_string())),
        ),
    ]
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
