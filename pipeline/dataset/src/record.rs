//! What a row must know to be written as Parquet.

/// A row of a file of `data/`: `Pair, Curation, Captions, Verdicts, Reject, PageLink, ImageLink, ManifestRow`.
pub trait Record: Sized + Send + 'static {}
impl Record for capstan_plan::row::Pair {}
impl Record for capstan_plan::row::Curation {}
impl Record for capstan_plan::row::Captions {}
impl Record for capstan_plan::row::Verdicts {}
impl Record for capstan_plan::row::Reject {}
impl Record for capstan_plan::row::PageLink {}
impl Record for capstan_plan::row::ImageLink {}
