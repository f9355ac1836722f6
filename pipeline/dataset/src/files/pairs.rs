//! Pairs from a base file, with or without the pictures from its pixels file.

use std::collections::VecDeque;

use bytes::Bytes;
use capstan_plan::commit::{File, Part};
use capstan_plan::row::Pair;

use super::{Reader, path};
use crate::error::{Error, Result};
use crate::record::Picture;
use crate::store::Store;

/// Whether pictures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// [`Pair::image`] holds the encoded picture.
    Read,
    /// [`Pair::image`] is empty; the pixels file is not opened.
    Skip,
}

/// Reads the pairs of a shard a row group at a time: of the pixels file (about 8 MiB) if pictures
/// are read, else of the base file (at most 1,024 rows).
pub struct Pairs {
    base: File,
    pairs: Reader<Pair>,
    pictures: Option<Reader<Picture>>,
    /// Pairs that were read, but not their pictures: row groups of the two files end apart.
    ahead: VecDeque<Pair>,
}

impl Pairs {
    /// Reads the footers of the files concerned.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`]; [`Error::Misaligned`] if base and pixels have
    /// different numbers of rows.
    pub async fn open(store: &Store, part: &Part, pixels: Pixels) -> Result<Self> {
        let base = &part.base;
        let pictures = match pixels {
            Pixels::Read => Some(open_pictures(store, part).await?),
            Pixels::Skip => None,
        };
        Ok(Self {
            base: base.clone(),
            pairs: Reader::open(store, base).await?,
            pictures,
            ahead: VecDeque::new(),
        })
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// As [`Pairs::open`]; [`Error::Misaligned`] if the rows are of different pairs.
    pub async fn next(&mut self) -> Result<Option<Vec<Pair>>> {
        let Some(reader) = &mut self.pictures else {
            return self.pairs.next().await;
        };
        let Some(pictures) = reader.next().await? else {
            return Ok(None);
        };
        while self.ahead.len() < pictures.len() {
            match self.pairs.next().await? {
                Some(pairs) => self.ahead.extend(pairs),
                None => break,
            }
        }
        let pixels = reader.file().digest;
        let mut joined = Vec::with_capacity(pictures.len());
        for picture in pictures {
            match self.ahead.pop_front() {
                Some(mut pair) if pair.pair_id == picture.pair_id => {
                    pair.image = picture.image.into();
                    joined.push(pair);
                }
                _ => {
                    return Err(Error::Misaligned {
                        file: pixels,
                        base: self.base.digest,
                        reason: format!("the base has no pair {} in this row", picture.pair_id),
                    });
                }
            }
        }
        Ok(Some(joined))
    }
}

async fn open_pictures(store: &Store, part: &Part) -> Result<Reader<Picture>> {
    let (base, pixels) = (&part.base, part.pixels_file());
    if pixels.rows != base.rows {
        return Err(Error::Misaligned {
            file: pixels.digest,
            base: base.digest,
            reason: format!("{} rows, the base has {}", pixels.rows, base.rows),
        });
    }
    Reader::open_cached(store, pixels).await
}

/// Encoded pictures of these rows of a shard, in the order of `rows`.
///
/// Reads each row group concerned once. Memory: the pictures returned and one row group.
///
/// # Errors
/// [`Error::Damaged`] for a row that the file does not have; [`Error::NotFound`].
pub async fn pictures(store: &Store, part: &Part, rows: &[u32]) -> Result<Vec<Bytes>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| rows[*at]);
    let reader = open_pictures(store, part).await?;
    let mut found = vec![Bytes::new(); rows.len()];
    let mut order = order.into_iter().peekable();
    let mut first = 0u64;
    for group in 0..reader.groups() {
        let end = first + reader.rows_of(group);
        let mut images: Option<Vec<Picture>> = None;
        while let Some(at) = order.next_if(|at| u64::from(rows[*at]) < end) {
            if images.is_none() {
                images = Some(reader.group(group).await?);
            }
            let within = (u64::from(rows[at]) - first) as usize;
            let picture = images.as_ref().and_then(|images| images.get(within));
            found[at] = picture.map(|row| row.image.clone()).unwrap_or_default();
        }
        first = end;
    }
    match order.next() {
        None => Ok(found),
        Some(at) => Err(Error::damaged(
            path(&part.pixels_file().digest),
            format!("it has {first} rows, row {} was requested", rows[at]),
        )),
    }
}
