//! Evaluation of a model: retrieval, zero-shot classification, captioning.
//!
//! This crate holds the metrics as pure functions over numbers and words, and the runner that computes
//! those numbers with a model. It calls `plan` and `model`. Sets are arguments, so it reads no store and
//! uses no service.
//!
//! ```text
//! pictures, texts ─► model ─► cosine ─► retrieval ─────────► R@1, R@5, R@10
//!                      │        └─► candidates ─► ITM ─► rerank ─► retrieval
//!                      ├─► classes x templates ─► zero_shot ─► accuracy
//!                      └─► captions ─► words ─► cider, bleu, rouge
//! ```
//! The blind test permutes the pictures and computes all figures again.

pub mod bleu;
pub mod blind;
pub mod captioning;
pub mod cider;
mod error;
mod measurement;
mod network;
mod ngrams;
mod progress;
pub mod rerank;
pub mod retrieval;
pub mod rouge;
mod runner;
mod scores;
pub mod words;
pub mod zero_shot;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use runner::{Models, Sets, check, evaluate, evaluate_model};
pub use scores::Scores;
