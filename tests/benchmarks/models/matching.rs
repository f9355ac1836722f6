//! Image-text matching.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use capstan_model::{Look, Med, MedParts, Network, TokenBatch};
use clap::Args;
use serde_json::json;

use crate::Run;
use crate::inputs::{Inputs, host};
use crate::pace::finish;

/// `models match`.
#[derive(Debug, Args)]
pub struct Match {
    /// A filter.
    #[arg(long)]
    model: PathBuf,
    /// A file with `pixels`.
    #[arg(long)]
    pixels: PathBuf,
    /// A file with `input_ids`: the same number of texts for each picture, in the pictures' order.
    #[arg(long)]
    texts: PathBuf,
    #[command(flatten)]
    run: Run,
}

impl Match {
    pub fn run(&self) -> Result<()> {
        let logits = self.run.on_device(|device, pace| {
            let med = Med::load(&self.model, &self.run.load(device).parts(MedParts::Filter))?;
            let pixels = Inputs::read(&self.pixels)?.pixels(device)?;
            let texts = TokenBatch::new(&Inputs::read(&self.texts)?.ids("input_ids")?, 0);
            let pictures = pixels.dims()[0];
            ensure!(
                texts.rows().is_multiple_of(pictures),
                "texts of each picture"
            );
            let each = texts.rows() / pictures;
            let which: Vec<usize> = (0..texts.rows()).map(|text| text / each).collect();
            pace.repeat(|| {
                let memory = med.memory(&med.encode(pixels.clone()));
                host(med.itm_logits_as_is(&memory, &texts, &which))
            })
        })?;
        finish(&json!({ "logits": logits }))
    }
}
