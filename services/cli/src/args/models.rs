//! Arguments of commands that work with models.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::StoreArgs;

/// `capstan caption`.
#[derive(Debug, ClapArgs)]
pub struct Caption {
    /// Pictures (JPEG, PNG, WebP).
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Folder of a captioner (Hugging Face BlipForConditionalGeneration).
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Sequences of beam search; 1 is greedy.
    #[arg(long, default_value_t = 3)]
    pub beams: usize,
    /// Tokens at most.
    #[arg(long, default_value_t = 20)]
    pub max_tokens: usize,
    /// Where the model computes: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// `capstan match`.
#[derive(Debug, ClapArgs)]
pub struct Match {
    /// A picture (JPEG, PNG, WebP).
    pub image: PathBuf,
    /// Texts to score.
    #[arg(required = true, value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Folder of a filter (BlipForImageTextRetrieval) or of a CLIP model.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Where the model computes: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// `capstan model`.
#[derive(Debug, Subcommand)]
pub enum Model {
    /// List models: digest, family, size, and which stage of which run made them.
    Ls(StoreArgs),
    /// Bring a model folder (Hugging Face layout) into the store.
    Import {
        /// Folder with config.json, model.safetensors and the tokenizer's and preprocessor's files.
        folder: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Copy a model out of the store, in Hugging Face layout.
    Export {
        /// Its digest, or the beginning of it where no other model begins so.
        digest: String,
        /// Folder to make; it must not be there.
        folder: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
}
