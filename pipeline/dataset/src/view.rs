//! The view of a shard: base and overlays joined, row by row.
use crate::error::Result;
use crate::files::Pixels;
use crate::store::Store;
use capstan_plan::commit::Part;
use capstan_plan::id::{ModelDigest, TextId};
use capstan_plan::row::{Pair, Text, Verdict};
use capstan_plan::stage::Use;

/// A row of a view.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewRow {
    /// Its place in the base file.
    pub row: u32,
    /// The pair; `image` is empty with [`Pixels::Skip`]. `texts` are all that were found.
    pub pair: Pair,
    /// Whether every curation keeps the picture.
    pub keep: bool,
    /// The reason of the first curation that drops it.
    pub reason: Option<String>,
    /// Found texts (web, human) that every curation keeps; none of a dropped picture.
    pub kept_texts: Vec<TextId>,
    /// Queries matched, of the last curation.
    pub queries: Vec<String>,
    /// Synthetic texts.
    pub synthetic: Vec<Text>,
    /// Verdicts.
    pub verdicts: Vec<Verdict>,
}
impl ViewRow {
    /// The verdict on a text.
    pub fn verdict(&self, _text: &TextId) -> Option<&Verdict> {
        todo!()
    }
    /// Found texts that curation keeps, in the order of the base file: what a filter judges, with `synthetic`.
    pub fn curated_texts(&self) -> impl Iterator<Item = &Text> {
        self.pair.texts.iter()
    }
    /// Texts under these uses: web, then human (both curated), then synthetic, in the order written.
    pub fn texts(&self, _web: Use, _synthetic: Use) -> Result<Vec<&Text>> {
        todo!()
    }
}
/// Reads the view of a shard a row group at a time.
pub struct View {}
impl View {
    /// Reads the overlays and the base's footer.
    pub async fn open(_store: &Store, _part: &Part, _pixels: Pixels) -> Result<Self> {
        todo!()
    }
    /// The next rows; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<ViewRow>>> {
        todo!()
    }
    /// All rows at once. For [`Pixels::Skip`], or shards known to be small.
    pub async fn read(_store: &Store, _part: &Part, _pixels: Pixels) -> Result<Vec<ViewRow>> {
        todo!()
    }
    /// The captioner of the synthetic texts.
    pub fn captioner(&self) -> Option<ModelDigest> {
        todo!()
    }
    /// The filter of the verdicts.
    pub fn filter(&self) -> Option<ModelDigest> {
        todo!()
    }
}
