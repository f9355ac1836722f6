//! Content-addressed Parquet: `data/<blake3 of the bytes>.parquet`.
//!
//! A file is built and hashed in memory (bounded by rows and bytes) and then
//! created under its digest, so that two writers of equal rows meet in one
//! object, and half a file is never seen. Row groups are bounded by bytes, and
//! readers take one at a time and only the columns that they need.

use bytes::Bytes;
use capstan_plan::commit::{File, FileKind};
use capstan_plan::id::Digest;
use capstan_plan::row::Pair;

use crate::error::{Error, Result};
use crate::record::{Record, kind_name};
use crate::store::Store;

mod reader;
mod writer;

pub(crate) use reader::Reader;
pub use writer::{Encoded, encode};

/// Size of a base file at which it is cut, whatever its rows.
const FILE_BYTES: usize = 256 << 20;

/// Where the file of this digest lies.
pub fn path(digest: &Digest) -> String {
    format!("data/{digest}.parquet")
}

/// Runs work that computes on a thread for such work.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Rows {
            what: what.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Puts an encoded file under its digest; one that is there already is the same.
pub(crate) async fn put(store: &Store, encoded: Encoded) -> Result<File> {
    let path = path(&encoded.file.digest);
    store.create(&path, encoded.bytes).await?;
    Ok(encoded.file)
}

/// Writes rows as one file of `kind`, one of [`Record::KINDS`]: `Rejects, Pages,
/// Images, PageLinks, ImageLinks`. No rows give a file without rows.
///
/// # Errors
/// [`Error::Rows`] for a kind that does not hold such rows; those of [`Store::create`].
pub async fn write<T: Record>(store: &Store, kind: FileKind, rows: Vec<T>) -> Result<File> {
    if !T::KINDS.contains(&kind) {
        return Err(Error::Rows {
            what: format!("a file of kind {}", kind_name(kind)),
            reason: format!("these rows make {:?}", T::KINDS),
        });
    }
    let encoded = blocking(kind_name(kind), move || encode(kind, &rows)).await?;
    put(store, encoded).await
}

/// Writes an overlay ([`Curation`](capstan_plan::row::Curation),
/// [`Captions`](capstan_plan::row::Captions), [`Verdicts`](capstan_plan::row::Verdicts))
/// of `base`: one row for every row of the base file, in its order.
///
/// # Errors
/// [`Error::Rows`] where rows and base differ in number; pair ids are compared
/// when the view joins them, and by `verify`.
pub async fn write_overlay<T: Record>(store: &Store, base: &File, rows: Vec<T>) -> Result<File> {
    let kind = T::KINDS[0];
    let is_overlay = matches!(
        kind,
        FileKind::Curation | FileKind::Captions | FileKind::Verdicts
    );
    let fail = |reason: String| Error::Rows {
        what: format!("{} overlay of base {}", kind_name(kind), base.digest),
        reason,
    };
    if base.kind != FileKind::Base || !is_overlay {
        return Err(fail("an overlay lies over a base file".to_owned()));
    }
    if rows.len() as u64 != base.rows {
        let (found, wanted) = (rows.len(), base.rows);
        return Err(fail(format!("{found} rows, but the base has {wanted}")));
    }
    let encoded = blocking(kind_name(kind), move || encode(kind, &rows)).await?;
    let mut file = put(store, encoded).await?;
    file.base = Some(base.digest);
    Ok(file)
}

/// Writes base files from pairs as they come: a new file every `rows_per_file`
/// rows or 256 MiB, so that the cut depends on the rows alone.
///
/// Holds one file in memory at most.
pub struct PairWriter {
    /// Where to.
    store: Store,
    /// Rows in a file at most.
    rows_per_file: usize,
    /// The file that is being built.
    open: writer::Builder<Pair>,
    /// Files written.
    files: Vec<File>,
}

impl PairWriter {
    /// Nothing is written before the first file is full. `rows_per_file` of 0 counts as 1.
    pub fn new(store: &Store, rows_per_file: usize) -> Self {
        Self {
            store: store.clone(),
            rows_per_file: rows_per_file.max(1),
            open: writer::Builder::new(FileKind::Base),
            files: Vec::new(),
        }
    }

    /// Takes a pair; writes a file where one is full.
    ///
    /// # Errors
    /// Those of [`Store::create`]; the writer is of no use afterwards.
    pub async fn push(&mut self, pair: Pair) -> Result<()> {
        if self.open.push(pair) {
            let mut open = self.take();
            self.open = blocking("base file", move || {
                open.write_group()?;
                Ok(open)
            })
            .await?;
        }
        if self.open.rows() >= self.rows_per_file || self.open.size_bytes() >= FILE_BYTES {
            self.cut().await?;
        }
        Ok(())
    }

    /// Writes what is left and gives every file, in order; none where there were no pairs.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub async fn finish(mut self) -> Result<Vec<File>> {
        if self.open.rows() > 0 {
            self.cut().await?;
        }
        Ok(self.files)
    }

    async fn cut(&mut self) -> Result<()> {
        let full = self.take();
        let encoded = blocking("base file", move || full.finish()).await?;
        self.files.push(put(&self.store, encoded).await?);
        Ok(())
    }

    fn take(&mut self) -> writer::Builder<Pair> {
        std::mem::replace(&mut self.open, writer::Builder::new(FileKind::Base))
    }
}

/// Writes pairs that are all in memory. See [`PairWriter`].
///
/// # Errors
/// Those of [`Store::create`].
pub async fn write_pairs(
    store: &Store,
    rows_per_file: usize,
    pairs: impl IntoIterator<Item = Pair>,
) -> Result<Vec<File>> {
    let mut writer = PairWriter::new(store, rows_per_file);
    for pair in pairs {
        writer.push(pair).await?;
    }
    writer.finish().await
}

/// Reads all rows of a file. Not for base files: see [`Pairs`].
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`] (other bytes, rows or schema than the record says).
pub async fn read<T: Record>(store: &Store, file: &File) -> Result<Vec<T>> {
    let mut reader = Reader::<T>::open(store, file, &[]).await?;
    let mut rows = Vec::new();
    while let Some(group) = reader.next().await? {
        rows.extend(group);
    }
    Ok(rows)
}

/// Whether pictures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// [`Pair::image`] holds the encoded bytes.
    Read,
    /// [`Pair::image`] is empty; its column is not even fetched.
    Skip,
}

/// Reads a base file a row group (at most 1,024 rows or about 8 MiB) at a time.
pub struct Pairs {
    reader: Reader<Pair>,
}

impl Pairs {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub async fn open(store: &Store, base: &File, pixels: Pixels) -> Result<Self> {
        let without: &[&str] = match pixels {
            Pixels::Read => &[],
            Pixels::Skip => &["image"],
        };
        Ok(Self {
            reader: Reader::open(store, base, without).await?,
        })
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// As [`Pairs::open`].
    pub async fn next(&mut self) -> Result<Option<Vec<Pair>>> {
        self.reader.next().await
    }
}

/// Encoded pictures of these rows of a base file, in the order asked for.
/// Reads the row groups concerned, each once; memory is what is asked for and one group.
///
/// # Errors
/// [`Error::Damaged`] for a row that the file does not have; [`Error::NotFound`].
pub async fn pictures(store: &Store, base: &File, rows: &[u32]) -> Result<Vec<Bytes>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| rows[*at]);
    let reader = Reader::<reader::Picture>::open(store, base, reader::BUT_IMAGE).await?;
    let mut found = vec![Bytes::new(); rows.len()];
    let mut wanted = order.into_iter().peekable();
    let mut first = 0u64;
    for group in 0..reader.groups() {
        let end = first + reader.rows_of(group);
        let mut images: Option<Vec<reader::Picture>> = None;
        while let Some(at) = wanted.next_if(|at| u64::from(rows[*at]) < end) {
            if images.is_none() {
                images = Some(reader.group(group).await?);
            }
            let within = (u64::from(rows[at]) - first) as usize;
            let image = images.as_ref().and_then(|images| images.get(within));
            found[at] = image.map(|image| image.0.clone()).unwrap_or_default();
        }
        first = end;
    }
    match wanted.next() {
        None => Ok(found),
        Some(at) => Err(Error::damaged(
            path(&base.digest),
            format!("it has {first} rows, row {} was asked for", rows[at]),
        )),
    }
}
