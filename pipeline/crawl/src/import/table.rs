//! Rows of a Parquet file of somebody else, by the names of their columns.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::{
    Array, BinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::ParquetMetaData;

/// Bytes of a batch, as far as the average row of its file tells.
const BATCH_BYTES: u64 = 32 << 20;
/// Rows of a batch at most.
const BATCH_ROWS: u64 = 256;

/// What is wrong with a file, also where the decoder breaks on it.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the Parquet decoder failed on it".to_owned()))
}

/// Reads a file batch by batch.
pub(super) struct Reader {
    batches: ParquetRecordBatchReader,
    rows: u64,
}

impl Reader {
    /// Opens a file for those of its columns that are wanted.
    pub(super) fn open(path: &Path, wanted: &[&str]) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        // Types as Parquet has them, whatever a library wrote beside: texts and bytes are plain.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|error| error.to_string())?;
        let fields = builder.schema().fields().iter().enumerate();
        let columns = fields.filter(|(_, field)| wanted.contains(&field.name().as_str()));
        let columns: Vec<usize> = columns.map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
        let rows = batch_rows(builder.metadata(), &mask);
        let all = builder.metadata().file_metadata().num_rows();
        let batches = builder
            .with_projection(mask)
            .with_batch_size(rows)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            batches,
            rows: u64::try_from(all).unwrap_or(0),
        })
    }

    /// Columns of the file, without any row.
    pub(super) fn schema(path: &Path) -> Result<Schema, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|error| error.to_string())?;
        Ok(builder.schema().as_ref().clone())
    }

    /// Rows of the file, as its footer says.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The next rows; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, String> {
        let batch = self.batches.next().transpose();
        Ok(batch.map_err(|error| error.to_string())?.map(Batch))
    }
}

/// As many rows as fit the bound, of the row group whose rows are largest.
fn batch_rows(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let row_bytes = |group: &parquet::file::metadata::RowGroupMetaData| {
        let columns = group.columns().iter().enumerate();
        let read = columns.filter(|(at, _)| mask.leaf_included(*at));
        let bytes: i64 = read.map(|(_, column)| column.uncompressed_size()).sum();
        bytes.max(0) as u64 / (group.num_rows().max(1) as u64)
    };
    let largest = metadata.row_groups().iter().map(row_bytes).max();
    let rows = BATCH_BYTES / largest.unwrap_or(0).max(1);
    rows.clamp(1, BATCH_ROWS) as usize
}

/// Some rows.
pub(super) struct Batch(RecordBatch);

impl Batch {
    pub(super) fn rows(&self) -> usize {
        self.0.num_rows()
    }

    /// A text; `None` where there is no such column, no value, or none of UTF-8.
    pub(super) fn text(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.valid(column, row)?;
        if let Some(texts) = column.downcast_ref::<StringArray>() {
            return Some(texts.value(row));
        }
        let bytes = column.downcast_ref::<BinaryArray>()?.value(row);
        std::str::from_utf8(bytes).ok()
    }

    /// Bytes; `None` where there is no such column or no value.
    pub(super) fn bytes(&self, column: &str, row: usize) -> Option<&[u8]> {
        let column = self.valid(column, row)?;
        Some(column.downcast_ref::<BinaryArray>()?.value(row))
    }

    /// A number of pixels; a library that knows no missing integers writes them as floats.
    pub(super) fn pixels(&self, column: &str, row: usize) -> Option<u32> {
        let column = self.valid(column, row)?;
        let number = if let Some(numbers) = column.downcast_ref::<Int32Array>() {
            i64::from(numbers.value(row))
        } else if let Some(numbers) = column.downcast_ref::<Int64Array>() {
            numbers.value(row)
        } else {
            column.downcast_ref::<Float64Array>()?.value(row) as i64
        };
        u32::try_from(number).ok().filter(|pixels| *pixels > 0)
    }

    fn valid(&self, column: &str, row: usize) -> Option<&dyn std::any::Any> {
        let column = self.0.column_by_name(column)?;
        column.is_valid(row).then(|| column.as_any())
    }
}

/// The first of these columns that holds bytes.
pub(super) fn column_of_bytes(schema: &Schema, names: &[&'static str]) -> Option<&'static str> {
    let is_bytes = |name: &&&'static str| {
        let field = schema.field_with_name(name);
        field.is_ok_and(|field| *field.data_type() == DataType::Binary)
    };
    names.iter().find(is_bytes).copied()
}
