//! CapFilt (Li et al. 2022, section 3.3): a captioner writes texts for pictures,
//! a filter judges web and synthetic texts, shard by shard.
//!
//! What lives here: [`Captioner`] and [`Filter`] over the rows of a view. They
//! call `plan`, `dataset` and `model`; they read and write no store and know no
//! service.
//!
//! ```text
//! ViewRow (picture, texts) ─► Captioner::caption_shard ─► Captions  one a row
//!                          └► Filter::judge_shard ──────► Verdicts  one a row
//! ```
//! Output is a function of model, settings, seed and rows: batches are composed
//! in row order and draws are keyed by (seed, pair id, caption, position), so it
//! does not matter which worker does the shard or how many threads it has.

mod captioner;
mod error;
mod filter;
mod med;

#[cfg(test)]
mod tests;

pub use captioner::Captioner;
pub use error::Error;
pub use filter::Filter;
