//! Arrow arrays from plain values and back.

use std::sync::Arc;

use arrow_array::builder::{FixedSizeBinaryBuilder, StringBuilder};
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Fields};
use capstan_plan::id::{Digest, TextId};
use capstan_plan::row::{Origin, Text};

use super::{element, text_fields};

pub(super) fn digests<'a>(digests: impl Iterator<Item = &'a Digest>) -> ArrayRef {
    let mut builder = FixedSizeBinaryBuilder::with_capacity(digests.size_hint().0, 32);
    for digest in digests {
        builder
            .append_value(digest.0)
            .expect("a digest has the 32 bytes of the column");
    }
    Arc::new(builder.finish())
}

pub(super) fn optional_digests<'a>(digests: impl Iterator<Item = Option<&'a Digest>>) -> ArrayRef {
    let mut builder = FixedSizeBinaryBuilder::with_capacity(digests.size_hint().0, 32);
    for digest in digests {
        match digest {
            Some(digest) => builder
                .append_value(digest.0)
                .expect("a digest has the 32 bytes of the column"),
            None => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

pub(super) fn strings<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    // `from_iter_values` needs an exact length, which a flattened iterator does not have.
    let mut builder = StringBuilder::new();
    for text in texts {
        builder.append_value(text);
    }
    Arc::new(builder.finish())
}

pub(super) fn optional_strings<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(texts))
}

/// One list per row; `values` holds the elements of all rows in order.
pub(super) fn lists(lengths: impl Iterator<Item = usize>, values: ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(
        element(values.data_type().clone()),
        offsets,
        values,
        None,
    ))
}

/// One list of strings per row.
pub(super) fn string_lists<'a>(rows: impl Iterator<Item = &'a [String]> + Clone) -> ArrayRef {
    let values = strings(rows.clone().flatten().map(String::as_str));
    lists(rows.map(<[_]>::len), values)
}

/// One list of `struct{text_id, text, origin}` per row.
pub(super) fn text_lists<'a>(
    rows: impl Iterator<Item = &'a [Text]> + Clone,
) -> Result<ArrayRef, ArrowError> {
    let all = || rows.clone().flatten();
    let values = structs(
        text_fields(),
        vec![
            digests(all().map(|text| &text.text_id.0)),
            strings(all().map(|text| text.text.as_str())),
            strings(all().map(|text| text.origin.as_str())),
        ],
    )?;
    Ok(lists(rows.map(<[_]>::len), values))
}

pub(super) fn structs(fields: Fields, columns: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
}

/// Columns by name and type; the error of a mismatch names the column.
pub struct Columns(StructArray);

impl Columns {
    pub(crate) fn new(batch: RecordBatch) -> Self {
        Self(batch.into())
    }

    pub(super) fn rows(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.column_by_name(name).is_some()
    }

    pub(crate) fn get<A: Array + 'static>(&self, name: &str) -> Result<&A, String> {
        let column = self
            .0
            .column_by_name(name)
            .ok_or_else(|| format!("column `{name}` is missing"))?;
        column.as_any().downcast_ref().ok_or_else(|| {
            let found: &DataType = column.data_type();
            format!("column `{name}` is of type {found}")
        })
    }

    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let column: &StringArray = self.get(name)?;
        Ok((0..column.len())
            .map(|row| column.value(row).to_owned())
            .collect())
    }

    /// A nullable column; `None` in every row of a file that lacks it.
    pub(super) fn optional_texts(&self, name: &str) -> Result<Vec<Option<String>>, String> {
        if !self.has(name) {
            return Ok(vec![None; self.rows()]);
        }
        let column: &StringArray = self.get(name)?;
        Ok(column.iter().map(|text| text.map(str::to_owned)).collect())
    }

    pub(super) fn digests(&self, name: &str) -> Result<Vec<Digest>, String> {
        let column: &FixedSizeBinaryArray = self.get(name)?;
        (0..column.len())
            .map(|row| digest(name, column.value(row)))
            .collect()
    }

    /// A nullable column; `None` in every row of a file that lacks it.
    pub(super) fn optional_digests(&self, name: &str) -> Result<Vec<Option<Digest>>, String> {
        if !self.has(name) {
            return Ok(vec![None; self.rows()]);
        }
        let column: &FixedSizeBinaryArray = self.get(name)?;
        column
            .iter()
            .map(|value| value.map(|bytes| digest(name, bytes)).transpose())
            .collect()
    }

    /// The length of the list of every row, and the elements of all lists as columns.
    pub(super) fn structs(&self, name: &str) -> Result<(Vec<usize>, Columns), String> {
        let column: &ListArray = self.get(name)?;
        let values = elements(column);
        let values: &StructArray = values
            .as_any()
            .downcast_ref()
            .ok_or_else(|| format!("column `{name}` holds no structs"))?;
        Ok((lengths(column), Columns(values.clone())))
    }

    pub(super) fn string_lists(&self, name: &str) -> Result<Vec<Vec<String>>, String> {
        let column: &ListArray = self.get(name)?;
        let values = elements(column);
        let values: &StringArray = values
            .as_any()
            .downcast_ref()
            .ok_or_else(|| format!("column `{name}` holds no strings"))?;
        let all = (0..values.len()).map(|at| values.value(at).to_owned());
        Ok(split(&lengths(column), all.collect()))
    }

    pub(super) fn digest_lists(&self, name: &str) -> Result<Vec<Vec<Digest>>, String> {
        let column: &ListArray = self.get(name)?;
        let values = elements(column);
        let values: &FixedSizeBinaryArray = values
            .as_any()
            .downcast_ref()
            .ok_or_else(|| format!("column `{name}` holds no digests"))?;
        let all: Result<Vec<_>, _> = (0..values.len())
            .map(|at| digest(name, values.value(at)))
            .collect();
        Ok(split(&lengths(column), all?))
    }

    pub(super) fn text_lists(&self, name: &str) -> Result<Vec<Vec<Text>>, String> {
        let (lengths, columns) = self.structs(name)?;
        let ids = columns.digests("text_id")?;
        let texts = columns.texts("text")?;
        let origins: &StringArray = columns.get("origin")?;
        let mut all = Vec::with_capacity(ids.len());
        for (at, (id, text)) in ids.into_iter().zip(texts).enumerate() {
            all.push(Text {
                text_id: TextId(id),
                text,
                origin: origin(origins.value(at))?,
            });
        }
        Ok(split(&lengths, all))
    }
}

pub(super) fn origin(name: &str) -> Result<Origin, String> {
    Origin::parse(name).ok_or_else(|| format!("unknown origin `{name}`"))
}

fn digest(name: &str, bytes: &[u8]) -> Result<Digest, String> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| format!("column `{name}` holds a digest of {} bytes", bytes.len()))
}

fn lengths(column: &ListArray) -> Vec<usize> {
    column.offsets().lengths().collect()
}

/// The elements of a list column. The offsets of a slice of a larger batch do not start at 0.
fn elements(column: &ListArray) -> ArrayRef {
    let offsets = column.offsets();
    let first = offsets.first().copied().unwrap_or(0) as usize;
    let last = offsets.last().copied().unwrap_or(0) as usize;
    column.values().slice(first, last - first)
}

/// Splits `all` into rows of these lengths.
pub(super) fn split<T>(lengths: &[usize], all: Vec<T>) -> Vec<Vec<T>> {
    let mut all = all.into_iter();
    lengths
        .iter()
        .map(|length| all.by_ref().take(*length).collect())
        .collect()
}
