//! CapFilt (Li et al. 2022, section 3.3): a captioner writes texts for pictures,
//! a filter judges web and synthetic texts, shard by shard.
//!
//! What lives here: [`Captioner`] and [`Filter`] over the rows of a view. They
//! call `plan`, `dataset` and `model`; they read and write no store and know no
//! service.
//!
//! ```text
//! ViewRow (picture, texts) ─► Captioner::caption_shard ─► Captions  one per row
//!                          └► Filter::judge_shard ──────► Verdicts  one per row
//! ```
//! A picture without a text is captioned like any other. The filter judges the texts that a row
//! has, possibly none.
//!
//! The output is a function of model, settings, seed and rows. Batches are composed in row order
//! and draws are keyed by (seed, pair id, caption, position), so the worker that executes the shard
//! and its number of threads make no difference.

mod captioner;
mod error;
mod filter;
mod model;

#[cfg(test)]
mod tests;

pub use captioner::Captioner;
pub use error::Error;
pub use filter::Filter;
