//! The index: the view without pixels, as training samples.
//!
//! One sample is one kept (picture, text). A picture has any number of samples.

use bytes::Bytes;
use capstan_plan::commit::Part;
use capstan_plan::id::{PairId, TextId};
use capstan_plan::row::{Origin, Text};
use capstan_plan::stage::Use;
use capstan_plan::task::Data;

use crate::error::{Error, Result};
use crate::files::{self, Pixels};
use crate::store::Store;
use crate::versions;
use crate::view::{View, ViewRow, is_human};

/// One kept (picture, text).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The text.
    pub text_id: TextId,
    /// The picture on its page.
    pub pair_id: PairId,
    /// The text itself.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
    /// Index into [`Index::parts`].
    pub shard: u32,
    /// Row of the base file.
    pub row: u32,
}

/// Samples, and the shards that hold their pictures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Index {
    /// Shards, in the order of the data.
    pub parts: Vec<Part>,
    /// Samples by shard, row, and text: found ones first, then synthetic ones.
    pub samples: Vec<Sample>,
}

/// Builds the index of these versions. Pixels files are not opened.
///
/// # Errors
/// [`Error::NoVerdicts`] if kept texts are requested of a shard without verdicts; those of the
/// view.
pub async fn samples(store: &Store, data: &[Data]) -> Result<Index> {
    let mut index = Index::default();
    for data in data {
        for part in versions::parts_of(store, &data.shards).await? {
            let shard = index.parts.len() as u32;
            add(store, data, &part, shard, &mut index.samples).await?;
            index.parts.push(part);
        }
    }
    Ok(index)
}

async fn add(
    store: &Store,
    data: &Data,
    part: &Part,
    shard: u32,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let mut view = View::open(store, part, Pixels::Skip).await?;
    let has_verdicts = view.has_verdicts();
    while let Some(rows) = view.next().await? {
        for row in &rows {
            let texts = texts(row, data.web, data.synthetic, has_verdicts);
            let texts = texts.ok_or_else(|| Error::NoVerdicts {
                version: data.shards.version.clone(),
                base: part.base.digest,
            })?;
            samples.extend(texts.into_iter().map(|text| Sample {
                text_id: text.text_id,
                pair_id: row.pair.pair_id,
                text: text.text.clone(),
                origin: text.origin,
                shard,
                row: row.row,
            }));
        }
    }
    Ok(())
}

/// The texts of a row under these uses; `None` if a kept text is requested and the shard has no
/// verdicts.
///
/// Human texts that curation keeps are always used. A single text may lack a verdict in a shard
/// that has some: the filter judged the texts of its time. Such a text is not kept.
fn texts(row: &ViewRow, web: Use, synthetic: Use, has_verdicts: bool) -> Option<Vec<&Text>> {
    let mut texts = Vec::new();
    let found = row.curated_texts().map(|text| (text, web));
    let written = row.synthetic.iter().filter(|_| row.keep);
    for (text, usage) in found.chain(written.map(|text| (text, synthetic))) {
        let is_used = match usage {
            _ if is_human(text.origin) => true,
            Use::All => true,
            Use::None => false,
            Use::Kept if !has_verdicts => return None,
            Use::Kept => row.verdict(&text.text_id).is_some_and(|v| v.kept),
        };
        if is_used {
            texts.push(text);
        }
    }
    Some(texts)
}

/// Encoded pictures of these rows of a shard, in the order of `rows`. Each row group is read once.
/// Memory: the pictures returned and one row group.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`].
pub async fn pictures(store: &Store, part: &Part, rows: &[u32]) -> Result<Vec<Bytes>> {
    files::pictures(store, part, rows).await
}

#[cfg(test)]
mod tests;
