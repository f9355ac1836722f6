//! Captions, and what nucleus sampling draws from.

use std::path::PathBuf;

use anyhow::Result;
use capstan_model::generate::{Decoder, Decoding, Strategy, generate, processors};
use capstan_model::{Generate, Load, Look, Med, MedParts, Memory, Network, Tensor};
use capstan_plan::draw::Draws;
use clap::{Args, ValueEnum};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::Run;
use crate::inputs::{Inputs, host};
use crate::pace::finish;

/// Share of the probability that nucleus sampling draws from.
const TOP_P: f64 = 0.9;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Greedy,
    /// `top_p` 0.9.
    Nucleus,
    /// Three beams.
    Beam,
}

/// `models caption`.
#[derive(Debug, Args)]
pub struct Caption {
    /// A captioner.
    #[arg(long)]
    model: PathBuf,
    /// A file with `pixels`.
    #[arg(long)]
    pixels: PathBuf,
    #[arg(long)]
    mode: Mode,
    /// New tokens of every caption: the stop token never comes.
    #[arg(long, default_value_t = 20)]
    tokens: usize,
    #[command(flatten)]
    run: Run,
}

/// Exactly `tokens` new tokens.
pub fn decoding(mode_tokens: usize, strategy: Strategy, stop: u32) -> Decoding {
    Decoding {
        strategy,
        min_tokens: 0,
        max_tokens: mode_tokens,
        repetition_penalty: 1.0,
        no_repeat_ngram: 0,
        banned: vec![stop],
    }
}

impl Mode {
    fn strategy(self) -> Strategy {
        match self {
            Self::Greedy => Strategy::Greedy,
            Self::Nucleus => Strategy::Nucleus {
                top_p: TOP_P,
                temperature: 1.0,
                top_k: 0,
            },
            Self::Beam => Strategy::Beam {
                beams: 3,
                length_penalty: 1.0,
            },
        }
    }
}

pub fn load(model: &std::path::Path, load: Load) -> Result<Med> {
    Ok(Med::load(model, &load.parts(MedParts::Captioner))?)
}

impl Caption {
    pub fn run(&self) -> Result<()> {
        let ids = self.run.on_device(|device, pace| {
            let med = load(&self.model, self.run.load(device))?;
            let pixels = Inputs::read(&self.pixels)?.pixels(device)?;
            let stop = med.config().text_config.sep_token_id;
            let decoding = decoding(self.tokens, self.mode.strategy(), stop);
            let draws = Draws::new(0, "captions");
            let draw = |picture: usize, position: usize| {
                draws.unit(&picture.to_le_bytes(), position as u64)
            };
            pace.repeat(|| {
                let memory = med.memory(&med.encode(pixels.clone()));
                let texts = generate(med.decoder(), &memory, &[], &decoding, &draw)?;
                Ok(texts.into_iter().map(|text| text.ids).collect::<Vec<_>>())
            })
        })?;
        finish(&json!({ "ids": ids }))
    }
}

/// `models filtered`.
#[derive(Debug, Args)]
pub struct Filtered {
    /// A captioner.
    #[arg(long)]
    model: PathBuf,
    /// A file with `pixels`.
    #[arg(long)]
    pixels: PathBuf,
    /// A file with `input_ids`, a text for each picture: [DEC] and tokens.
    #[arg(long)]
    prefix: PathBuf,
    /// Where `probabilities` `[pictures * positions, vocabulary]` are written.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    run: Run,
}

impl Filtered {
    pub fn run(&self) -> Result<()> {
        let (vocabulary, probabilities) = self.run.on_device(|device, _| {
            let med = load(&self.model, self.run.load(device))?;
            let pixels = Inputs::read(&self.pixels)?.pixels(device)?;
            let rows = Inputs::read(&self.prefix)?.ids("input_ids")?;
            let memory = med.memory(&med.encode(pixels));
            let stop = med.config().text_config.sep_token_id;
            let vocabulary = med.vocab_size();
            let mut scores = host(forced(med.decoder(), &memory, &rows))?;
            for scores in scores.chunks_exact_mut(vocabulary) {
                processors::forbid(scores, &[stop]);
                processors::keep_nucleus(scores, TOP_P);
                softmax(scores);
            }
            Ok((vocabulary, scores))
        })?;
        let bytes: Vec<u8> = probabilities.iter().flat_map(|p| p.to_le_bytes()).collect();
        let shape = vec![probabilities.len() / vocabulary, vocabulary];
        let view = TensorView::new(Dtype::F32, shape, &bytes)?;
        let file = safetensors::serialize([("probabilities", view)], None)?;
        std::fs::write(&self.out, file)?;
        finish(&json!({ "rows": probabilities.len() / vocabulary }))
    }
}

/// The logits after every token of texts that are given, `[texts * tokens, vocabulary]`, as decoding
/// computes them: the first token as a prompt, each further one as a step.
fn forced(decoder: &dyn Decoder, memory: &Memory, rows: &[Vec<u32>]) -> Tensor<2> {
    let tokens = rows[0].len();
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| vec![row[0]]).collect();
    let (first, mut state) = decoder.prefill(memory, &prompts, tokens);
    let mut logits = vec![first.unsqueeze_dim::<3>(1)];
    for position in 1..tokens {
        let ids: Vec<u32> = rows.iter().map(|row| row[position]).collect();
        logits.push(decoder.step(&ids, &mut state).unsqueeze_dim(1));
    }
    Tensor::cat(logits, 1).flatten(0, 1)
}

fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = scores.iter().map(|s| f64::from(s - top).exp()).collect();
    let total: f64 = exps.iter().sum();
    for (score, exp) in scores.iter_mut().zip(exps) {
        *score = (exp / total) as f32;
    }
}
