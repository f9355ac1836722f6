//! The first caption of a process.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use capstan_model::generate::{Strategy, generate};
use capstan_model::{Generate, ImagePreprocess, Look, Network};
use clap::Args;
use serde_json::json;

use crate::Run;
use crate::caption::{decoding, load};
use crate::pace::finish;

/// `models cold`.
#[derive(Debug, Args)]
pub struct Cold {
    /// A captioner with its `preprocessor_config.json`.
    #[arg(long)]
    model: PathBuf,
    /// An encoded picture.
    #[arg(long)]
    image: PathBuf,
    /// New tokens.
    #[arg(long, default_value_t = 20)]
    tokens: usize,
    #[command(flatten)]
    run: Run,
}

impl Cold {
    /// - `start`: when the process began.
    pub fn run(&self, start: Instant) -> Result<()> {
        let (loaded_s, ids) = self.run.on_device(|device, _| {
            let med = load(&self.model, self.run.load(device))?;
            let loaded_s = start.elapsed().as_secs_f64();
            let preprocess = ImagePreprocess::load(&self.model)?;
            let bytes = std::fs::read(&self.image).context("the picture")?;
            let pixels = preprocess.batch(preprocess.pixels(&bytes)?, device);
            let stop = med.config().text_config.sep_token_id;
            let decoding = decoding(self.tokens, Strategy::Greedy, stop);
            let memory = med.memory(&med.encode(pixels));
            let texts = generate(med.decoder(), &memory, &[], &decoding, &|_, _| 0.0)?;
            Ok((loaded_s, texts.into_iter().next().map(|text| text.ids)))
        })?;
        let first_caption_s = start.elapsed().as_secs_f64();
        finish(&json!({ "loaded_s": loaded_s, "first_caption_s": first_caption_s, "ids": [ids] }))
    }
}
