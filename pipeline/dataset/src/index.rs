//! The index: the view without pixels, as training samples.
use crate::error::Result;
use crate::store::Store;
use capstan_plan::commit::Part;
use capstan_plan::id::{PairId, TextId};
use capstan_plan::row::Origin;
use capstan_plan::task::Data;

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
/// Samples and the shards that hold their pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// Shards, in the order of the data.
    pub parts: Vec<Part>,
    /// Samples by shard, row, text.
    pub samples: Vec<Sample>,
}
/// Builds the index. No pixel is read.
pub async fn samples(_store: &Store, _data: &[Data]) -> Result<Index> {
    todo!()
}
/// Encoded pictures of these rows of a shard, in the order asked for.
pub async fn pictures(_store: &Store, _part: &Part, _rows: &[u32]) -> Result<Vec<Vec<u8>>> {
    todo!()
}
