//! Models of the CLIP and BLIP families: networks, tokenizer, picture
//! preparation, decoding, and Hugging Face folders in and out.
//!
//! ```text
//! bytes ─ preprocess ─► pixels ─► Clip::encode_image ─┐
//! text ── tokenizer ──► TokenBatch ─► Clip::encode_text ┴─► cosine
//!
//! pixels ─► Med::encode ─► Look::memory (keys and values, once a picture)
//!                │                    ├─► Match::match_logits   image-grounded encoder
//!                └─ image_features    └─► Generate::lm_loss, generate   decoder
//! TokenBatch ─► Embed::text_features    text encoder
//! ```
//!
//! [`Pretrained`] opens a model folder of any family as a [`Network`], whose
//! capabilities ([`Embed`], [`Match`], [`Generate`]) are what training, evaluation
//! and CapFilt know of it. As numbers it is a list of [`Param`]s in a fixed order
//! ([`Model`]), so that a trainer sees one vector of gradients. Devices, seeds and
//! draws are arguments everywhere. This room calls none of ours.
#![forbid(unsafe_code)]

pub mod blip;
mod blocks;
pub mod clip;
pub mod config;
pub mod device;
mod dropout;
pub mod folder;
pub mod generate;
pub mod init;
pub mod names;
pub mod network;
mod ops;
pub mod params;
pub mod positions;
pub mod preprocess;
pub mod pretrained;
mod resample;
pub mod tokenizer;
mod tokens;
pub mod towers;
pub mod weights;

#[cfg(test)]
mod tests;

pub use blip::{Med, MedParts};
pub use clip::Clip;
pub use device::{ComputePool, DeviceSpec};
pub use init::InitRecipe;
pub use network::{Embed, Generate, ImageEmbeds, LmLoss, Look, Match, Memory, Network, Scale};
#[doc(hidden)]
pub use ops::timed;
pub use params::{Model, Param};
pub use preprocess::ImagePreprocess;
pub use pretrained::{Load, Pretrained};
pub use tokenizer::Tokenizer;
pub use tokens::TokenBatch;

/// What burn gives that callers of this crate need by name.
pub use burn::tensor::{Device, Gradients, Tensor, TensorData};
