//! Embeddings of pictures.

use std::path::PathBuf;

use anyhow::Result;
use capstan_model::Clip;
use clap::Args;
use serde_json::json;

use crate::Run;
use crate::inputs::{Inputs, host};
use crate::pace::finish;

/// `models embed`.
#[derive(Debug, Args)]
pub struct Embed {
    /// A CLIP.
    #[arg(long)]
    model: PathBuf,
    /// A file with `pixels`.
    #[arg(long)]
    pixels: PathBuf,
    #[command(flatten)]
    run: Run,
}

impl Embed {
    pub fn run(&self) -> Result<()> {
        let (width, features) = self.run.on_device(|device, pace| {
            let clip = Clip::load(&self.model, &self.run.load(device))?;
            let pixels = Inputs::read(&self.pixels)?.pixels(device)?;
            let features = pace.repeat(|| host(clip.encode_image(pixels.clone())))?;
            Ok((clip.config().projection_dim, features))
        })?;
        // The first features are enough to compare.
        let some = features.len().min(4 * width);
        finish(&json!({ "features": features[..some] }))
    }
}
