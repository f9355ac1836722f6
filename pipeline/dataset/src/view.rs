//! The view of a shard: base and overlays joined, row by row.
//!
//! Overlays are small and read whole. The base is read a row group at a time, with or without
//! its pictures.

use std::collections::HashSet;

use capstan_plan::commit::{File, FileKind, Part};
use capstan_plan::id::{ModelDigest, TextId};
use capstan_plan::row::{Captions, Curation, Origin, Pair, Text, Verdict, Verdicts};

use crate::error::{Error, Result};
use crate::files::{self, Pairs, Pixels};
use crate::record::Record;
use crate::store::Store;

/// A row of a view: one picture as found on one page, with the results of later stages.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewRow {
    /// Its row in the base file.
    pub row: u32,
    /// The pair; `image` is empty with [`Pixels::Skip`]. `texts` holds all found texts.
    pub pair: Pair,
    /// Whether every curation keeps the picture.
    pub keep: bool,
    /// The reason of the first curation that drops it.
    pub reason: Option<String>,
    /// Found texts (web and human) that every curation keeps, in the order of `pair.texts`: all
    /// without a curation, none of a dropped picture.
    pub kept_texts: Vec<TextId>,
    /// Matched queries of the last curation.
    pub queries: Vec<String>,
    /// Synthetic texts, of the last captioner.
    pub synthetic: Vec<Text>,
    /// Verdicts of the last filter.
    pub verdicts: Vec<Verdict>,
}

impl ViewRow {
    /// The verdict on a text.
    pub fn verdict(&self, text: &TextId) -> Option<&Verdict> {
        self.verdicts.iter().find(|v| v.text_id == *text)
    }

    /// Found texts (web and human) that curation keeps, in the order of the base file.
    pub fn curated_texts(&self) -> impl Iterator<Item = &Text> {
        let is_kept = |text: &&Text| self.kept_texts.contains(&text.text_id);
        self.pair.texts.iter().filter(is_kept)
    }

    /// Texts that a filter judges: web texts that curation keeps, then synthetic ones.
    pub fn judged_texts(&self) -> impl Iterator<Item = &Text> {
        let web = self.curated_texts().filter(|text| text.origin.is_web());
        web.chain(self.synthetic.iter().filter(|_| self.keep))
    }
}

/// Reads the view of a shard, a row group at a time.
pub struct View {
    base: File,
    pairs: Pairs,
    /// Rows returned so far.
    rows: usize,
    curations: Vec<Overlay<Curation>>,
    captions: Option<Overlay<Captions>>,
    verdicts: Option<Overlay<Verdicts>>,
}

/// An overlay, read whole.
struct Overlay<T> {
    file: File,
    rows: Vec<T>,
}

impl View {
    /// Reads the overlays and the base's footer.
    ///
    /// # Errors
    /// [`Error::Misaligned`] (other rows, or another base), [`Error::NotFound`], [`Error::Damaged`].
    pub async fn open(store: &Store, part: &Part, pixels: Pixels) -> Result<Self> {
        let mut view = Self {
            base: part.base.clone(),
            pairs: Pairs::open(store, part, pixels).await?,
            rows: 0,
            curations: Vec::new(),
            captions: None,
            verdicts: None,
        };
        for file in &part.overlays {
            match file.kind {
                FileKind::Curation => view.curations.push(view.overlay(store, file).await?),
                FileKind::Captions => view.captions = Some(view.overlay(store, file).await?),
                FileKind::Verdicts => view.verdicts = Some(view.overlay(store, file).await?),
                other => {
                    return Err(view.misaligned(file, format!("it is of kind {other:?}")));
                }
            }
        }
        Ok(view)
    }

    async fn overlay<T: Record>(&self, store: &Store, file: &File) -> Result<Overlay<T>> {
        // `file.base` may differ: an adopted overlay was written for a base of equal rows but
        // other times. `join` compares the pair ids of every row.
        if file.rows != self.base.rows {
            let (found, expected) = (file.rows, self.base.rows);
            return Err(self.misaligned(file, format!("{found} rows, the base has {expected}")));
        }
        Ok(Overlay {
            file: file.clone(),
            rows: files::read(store, file).await?,
        })
    }

    /// The next rows (a row group of the base or of its pixels); `None` at the end.
    ///
    /// # Errors
    /// [`Error::Misaligned`] if a row of the pixels or of an overlay is of another pair.
    pub async fn next(&mut self) -> Result<Option<Vec<ViewRow>>> {
        let Some(pairs) = self.pairs.next().await? else {
            return Ok(None);
        };
        let first = self.rows;
        self.rows += pairs.len();
        let rows = pairs.into_iter().zip(first..);
        rows.map(|(pair, row)| self.join(pair, row))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// All rows at once: for reading without pixels, or for small shards.
    ///
    /// # Errors
    /// As [`View::open`] and [`View::next`].
    pub async fn read(store: &Store, part: &Part, pixels: Pixels) -> Result<Vec<ViewRow>> {
        let mut view = Self::open(store, part, pixels).await?;
        let mut rows = Vec::new();
        while let Some(group) = view.next().await? {
            rows.extend(group);
        }
        Ok(rows)
    }

    /// The captioner of the synthetic texts, if there are any.
    pub fn captioner(&self) -> Option<ModelDigest> {
        Some(self.captions.as_ref()?.rows.first()?.model)
    }

    /// The filter of the verdicts, if there are any.
    pub fn filter(&self) -> Option<ModelDigest> {
        Some(self.verdicts.as_ref()?.rows.first()?.model)
    }

    /// Whether the shard has verdicts.
    pub fn has_verdicts(&self) -> bool {
        self.verdicts.is_some()
    }

    fn join(&self, pair: Pair, row: usize) -> Result<ViewRow> {
        let mut joined = ViewRow {
            row: row as u32,
            keep: true,
            reason: None,
            kept_texts: pair.texts.iter().map(|text| text.text_id).collect(),
            queries: Vec::new(),
            synthetic: Vec::new(),
            verdicts: Vec::new(),
            pair,
        };
        for overlay in &self.curations {
            let curation = self.aligned(overlay, &joined.pair, row)?;
            narrow(&mut joined, curation);
        }
        if let Some(overlay) = &self.captions {
            let captions = self.aligned(overlay, &joined.pair, row)?;
            joined.synthetic.clone_from(&captions.texts);
        }
        if let Some(overlay) = &self.verdicts {
            let verdicts = self.aligned(overlay, &joined.pair, row)?;
            joined.verdicts.clone_from(&verdicts.verdicts);
        }
        Ok(joined)
    }

    fn aligned<'a, T: Record>(
        &self,
        overlay: &'a Overlay<T>,
        pair: &Pair,
        row: usize,
    ) -> Result<&'a T> {
        match overlay.rows.get(row) {
            Some(found) if found.pair_id() == Some(pair.pair_id) => Ok(found),
            _ => Err(self.misaligned(
                &overlay.file,
                format!("row {row} is not of pair {}", pair.pair_id),
            )),
        }
    }

    fn misaligned(&self, overlay: &File, reason: String) -> Error {
        Error::Misaligned {
            file: overlay.digest,
            base: self.base.digest,
            reason,
        }
    }
}

/// Applies a further curation: a row and its texts stay only if every curation keeps them.
fn narrow(row: &mut ViewRow, curation: &Curation) {
    if row.keep && !curation.keep {
        row.keep = false;
        row.reason.clone_from(&curation.reason);
    }
    let kept: HashSet<&TextId> = curation.texts.iter().collect();
    let keep = row.keep;
    row.kept_texts.retain(|text| keep && kept.contains(text));
    row.queries.clone_from(&curation.queries);
}

/// Whether a text of this origin was written by people for this picture.
pub(crate) fn is_human(origin: Origin) -> bool {
    origin == Origin::Human
}

#[cfg(test)]
mod tests;
