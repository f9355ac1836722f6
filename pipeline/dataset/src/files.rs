//! Content-addressed Parquet files: `data/<blake3 of the bytes>.parquet`.
//!
//! A file is built and hashed in memory, bounded by rows and bytes, and then created under its
//! digest. Two writers of equal rows therefore create one object, and a partial file is never
//! visible. Row groups are bounded by bytes. Readers fetch one row group at a time, and only the
//! columns that they need.

use capstan_plan::commit::{File, FileKind};
use capstan_plan::id::Digest;

use crate::error::{Error, Result};
use crate::record::{Record, kind_name};
use crate::store::{Created, Store};

mod base;
mod pairs;
mod reader;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use base::{FileBounds, PairWriter, write_pairs};
pub use pairs::{Pairs, Pixels, pictures};
pub(crate) use reader::Reader;
pub use writer::{Encoded, encode};

/// The object that holds the file of this digest.
pub fn path(digest: &Digest) -> String {
    format!("data/{digest}.parquet")
}

/// Runs CPU-bound or disk-bound work on a blocking thread.
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

/// Puts an encoded file under its digest.
///
/// An object that exists already is read back: the name alone does not prove the bytes. One of
/// another size or with other bytes is damaged, and is written again.
pub(crate) async fn put(store: &Store, encoded: Encoded) -> Result<File> {
    let Encoded { bytes, file } = encoded;
    let path = path(&file.digest);
    if store.create(&path, bytes.clone()).await? == Created::Created {
        return Ok(file);
    }
    let is_sound = store.size(&path).await? == Some(file.size_bytes)
        && store.digest(&path).await? == Some(file.digest);
    if !is_sound {
        tracing::warn!(path, "a damaged object is written again");
        store.replace(&path, bytes).await?;
    }
    Ok(file)
}

/// Writes rows as one file of `kind`, one of [`Record::KINDS`]: `Rejects, Pages, Images,
/// PageLinks, ImageLinks`. An empty list of rows gives a file without rows.
///
/// # Errors
/// [`Error::Rows`] for a kind that does not hold such rows; those of [`Store::create`].
pub async fn write<T: Record>(store: &Store, kind: FileKind, rows: Vec<T>) -> Result<File> {
    if !T::KINDS.contains(&kind) {
        return Err(Error::Rows {
            what: format!("a file of kind {}", kind_name(kind)),
            reason: format!("these rows belong in files of kind {:?}", T::KINDS),
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
/// [`Error::Rows`] if the numbers of rows differ. Pair ids are compared when a view joins the
/// two, and by `verify`.
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
        let (found, expected) = (rows.len(), base.rows);
        return Err(fail(format!("{found} rows, but the base has {expected}")));
    }
    let encoded = blocking(kind_name(kind), move || encode(kind, &rows)).await?;
    let mut file = put(store, encoded).await?;
    file.base = Some(base.digest);
    Ok(file)
}

/// Reads all rows of a file. For base files and their pixels use [`Pairs`].
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`] (bytes, rows or schema differ from the record).
pub async fn read<T: Record>(store: &Store, file: &File) -> Result<Vec<T>> {
    let mut reader = Reader::<T>::open(store, file).await?;
    let mut rows = Vec::new();
    while let Some(group) = reader.next().await? {
        rows.extend(group);
    }
    Ok(rows)
}
