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
    /// Number of beams; 1 is greedy decoding.
    #[arg(long, default_value_t = 3)]
    pub beams: usize,
    /// Maximum number of tokens.
    #[arg(long, default_value_t = 20)]
    pub max_tokens: usize,
    /// Device of the model: auto, cpu, cuda or cuda:N.
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
    /// Device of the model: auto, cpu, cuda or cuda:N.
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
    /// Import a model folder (Hugging Face layout) into the store.
    Import {
        /// Folder with config.json, model.safetensors and the tokenizer's and preprocessor's files.
        folder: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Export a model from the store, in Hugging Face layout.
    Export {
        /// Digest of the model, or a prefix that no other model has.
        digest: String,
        /// Folder to create; it must not exist.
        folder: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
}
