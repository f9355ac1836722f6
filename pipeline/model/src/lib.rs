//! Models of the CLIP and BLIP families: networks, tokenizer, picture
//! preparation, decoding, and Hugging Face folders in and out.
//!
//! ```text
//! bytes ─ preprocess ─► pixels ─► Clip::encode_image ─┐
//! text ── tokenizer ──► TokenBatch ─► Clip::encode_text ┴─► cosine
//!
//! pixels ─► Med::image_embeds ─► Med::memory (keys and values, once a picture)
//!                │                    ├─► Med::itm_logits   image-grounded encoder
//!                └─ image_features    └─► Med::lm_loss, generate   decoder
//! TokenBatch ─► Med::text_features    text encoder
//! ```
//!
//! A model is a list of flat [`Weight`]s in a fixed order ([`Model`]), so that a
//! trainer sees one vector of parameters and one of gradients. Devices, seeds and
//! draws are arguments everywhere. This room calls none of ours.
#![forbid(unsafe_code)]

pub mod blip;
pub mod clip;
pub mod config;
pub mod device;
pub mod folder;
pub mod generate;
pub mod init;
pub mod inspect;
mod layers;
pub mod names;
mod ops;
pub mod positions;
pub mod preprocess;
mod resample;
pub mod tokenizer;
mod tokens;
pub mod weights;

#[cfg(test)]
mod tests;

pub use blip::{ImageEmbeds, LmLoss, Med, MedParts, Memory};
pub use clip::Clip;
pub use device::{ComputePool, DeviceSpec};
pub use init::InitRecipe;
pub use preprocess::ImagePreprocess;
pub use tokenizer::Tokenizer;
pub use tokens::TokenBatch;
pub use weights::{Model, Weight};

/// What burn gives that callers of this crate need by name.
pub use burn::tensor::{Device, Gradients, Tensor, TensorData};
