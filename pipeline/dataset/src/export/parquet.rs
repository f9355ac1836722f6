//! Parquet files `00000.parquet ...` with a bounded number of rows.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{Kept, Layout, Row, columns, key, pairs};
use crate::error::{Error, Result, one_line};

/// Most rows of a batch, which becomes a row group. It holds a picture once per text.
const BATCH_ROWS: usize = 256;

/// The files being written.
pub(super) struct Folder {
    folder: PathBuf,
    rows_per_file: usize,
    layout: Layout,
    /// The open file and its rows so far.
    open: Option<(ArrowWriter<File>, usize)>,
    /// Number of files begun, and the size of the complete ones.
    files: u64,
    size_bytes: u64,
}

impl Folder {
    pub(super) fn new(folder: &Path, rows_per_file: usize, layout: Layout) -> Self {
        Self {
            folder: folder.to_owned(),
            rows_per_file,
            layout,
            open: None,
            files: 0,
            size_bytes: 0,
        }
    }

    pub(super) fn write(&mut self, rows: &[Row]) -> Result<()> {
        if self.layout == Layout::Pictures {
            let all: Vec<&Row> = rows.iter().collect();
            return self.write_all(&all, |rows, _| columns::pictures(rows));
        }
        let all: Vec<(&Row, Option<&Kept>)> = rows.iter().flat_map(pairs).collect();
        self.write_all(&all, columns::flat)
    }

    /// Writes items in batches that stay within a file and within the bound of a batch.
    fn write_all<T>(
        &mut self,
        mut items: &[T],
        batch: impl Fn(&[T], Vec<String>) -> Result<arrow_array::RecordBatch, arrow_schema::ArrowError>,
    ) -> Result<()> {
        while !items.is_empty() {
            let file = self.files.saturating_sub(u64::from(self.open.is_some()));
            let (path, rows_per_file) = (self.path(file), self.rows_per_file);
            let (writer, written) = match &mut self.open {
                Some(open) => open,
                none => {
                    self.files += 1;
                    none.insert((create(&path, self.layout)?, 0))
                }
            };
            let (now, later) =
                items.split_at(items.len().min(BATCH_ROWS).min(rows_per_file - *written));
            let keys = (*written..*written + now.len())
                .map(|row| key(file, row, rows_per_file))
                .collect();
            let fail = |reason: String| refused(&path, reason);
            let batch = batch(now, keys).map_err(|error| fail(error.to_string()))?;
            writer
                .write(&batch)
                .and_then(|()| writer.flush())
                .map_err(|error| fail(error.to_string()))?;
            *written += now.len();
            if *written == rows_per_file {
                self.close()?;
            }
            items = later;
        }
        Ok(())
    }

    /// The path of the file of this number.
    fn path(&self, file: u64) -> PathBuf {
        self.folder.join(format!("{file:05}.parquet"))
    }

    fn close(&mut self) -> Result<()> {
        let Some((writer, _)) = self.open.take() else {
            return Ok(());
        };
        let path = self.path(self.files - 1);
        let fail = |reason: String| refused(&path, reason);
        let file = writer
            .into_inner()
            .map_err(|error| fail(error.to_string()))?;
        let metadata = file
            .metadata()
            .map_err(|error| Error::local(&path, error))?;
        self.size_bytes += metadata.len();
        Ok(())
    }

    /// Number of files and their size. An export without rows has one file without rows, so that
    /// readers find its columns.
    pub(super) fn finish(mut self) -> Result<(u64, u64)> {
        if self.files == 0 {
            let path = self.path(0);
            self.files = 1;
            self.open = Some((create(&path, self.layout)?, 0));
        }
        self.close()?;
        Ok((self.files, self.size_bytes))
    }
}

fn create(path: &Path, layout: Layout) -> Result<ArrowWriter<File>> {
    let file = File::create_new(path).map_err(|error| Error::local(path, error))?;
    // As in pixels files, pictures are compressed already.
    let image = ColumnPath::from("jpg");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_column_compression(image.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(image.clone(), false)
        .set_column_statistics_enabled(image, EnabledStatistics::None)
        .build();
    ArrowWriter::try_new(file, columns::schema(layout), Some(properties))
        .map_err(|error| refused(path, error.to_string()))
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Rows {
        what: path.display().to_string(),
        reason: one_line(&reason),
    }
}
