//! Rows of a Parquet file that another program wrote, by column name.

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

use crate::roots::SourceFolder;

/// Target size of a batch in bytes, estimated from the largest average row of the row groups.
const BATCH_BYTES: u64 = 32 << 20;
/// Greatest number of rows of a batch.
const BATCH_ROWS: u64 = 256;

/// Runs `work`, and returns a panic of the Parquet decoder as an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the Parquet decoder panicked".to_owned()))
}

/// Reads a file batch by batch.
pub(crate) struct Reader {
    batches: ParquetRecordBatchReader,
    rows: u64,
}

impl Reader {
    /// Opens a file and selects those of its columns that are in `wanted`.
    pub(crate) fn open(
        source: &SourceFolder,
        path: &Path,
        wanted: &[&str],
    ) -> Result<Self, String> {
        let file = source.open(path).map_err(|error| error.to_string())?;
        // Uses Parquet's own types, so that texts and bytes are plain whatever Arrow schema the
        // writing library embedded.
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

    /// The columns of a file; reads no rows.
    pub(crate) fn schema(source: &SourceFolder, path: &Path) -> Result<Schema, String> {
        let file = source.open(path).map_err(|error| error.to_string())?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|error| error.to_string())?;
        Ok(builder.schema().as_ref().clone())
    }

    /// Rows of the file according to its footer.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The next rows; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>, String> {
        let batch = self.batches.next().transpose();
        Ok(batch.map_err(|error| error.to_string())?.map(Batch))
    }
}

/// Rows of a batch that fit [`BATCH_BYTES`], for the row group whose rows are largest.
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

/// A batch of rows.
pub(crate) struct Batch(RecordBatch);

impl Batch {
    pub(crate) fn rows(&self) -> usize {
        self.0.num_rows()
    }

    /// A text; `None` without such a column, without a value, or where the value is not UTF-8.
    pub(crate) fn text(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.valid(column, row)?;
        if let Some(texts) = column.downcast_ref::<StringArray>() {
            return Some(texts.value(row));
        }
        let bytes = column.downcast_ref::<BinaryArray>()?.value(row);
        std::str::from_utf8(bytes).ok()
    }

    /// Bytes; `None` without such a column or without a value.
    pub(crate) fn bytes(&self, column: &str, row: usize) -> Option<&[u8]> {
        let column = self.valid(column, row)?;
        Some(column.downcast_ref::<BinaryArray>()?.value(row))
    }

    /// A number of pixels. pandas writes an integer column with missing values as floats, which are
    /// read as well.
    pub(crate) fn pixels(&self, column: &str, row: usize) -> Option<u32> {
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
pub(crate) fn column_of_bytes(schema: &Schema, names: &[&'static str]) -> Option<&'static str> {
    let is_bytes = |name: &&&'static str| {
        let field = schema.field_with_name(name);
        field.is_ok_and(|field| *field.data_type() == DataType::Binary)
    };
    names.iter().find(is_bytes).copied()
}
