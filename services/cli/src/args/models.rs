//! Arguments of commands that work with models.

use std::path::PathBuf;

use capstan_model::params;
use capstan_model::weights::Keep;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::StoreArgs;

/// The model that a command computes with, and how.
#[derive(Debug, ClapArgs)]
pub struct OfModel {
    /// Folder of the model, in Hugging Face layout.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Device of the model: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Type in which weights are kept: that of the file where it is left out. 16 bits take half of
    /// the memory; computation is in f32.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Pictures that are computed together.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub batch: usize,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// Type of stored values.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32.
    Bf16,
    /// 16 bits as IEEE 754 has them.
    F16,
}

impl OfModel {
    /// How weights are kept.
    pub fn keep(&self) -> Keep {
        match self.dtype {
            None => Keep::AsStored,
            Some(Dtype::F32) => Keep::As(params::Dtype::F32),
            Some(Dtype::Bf16) => Keep::As(params::Dtype::Bf16),
            Some(Dtype::F16) => Keep::As(params::Dtype::F16),
        }
    }
}

/// `capstan caption`.
#[derive(Debug, ClapArgs)]
pub struct Caption {
    /// Pictures (JPEG, PNG, WebP), folders of pictures, or patterns such as 'photos/**/*.jpg'.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub of_model: OfModel,
    /// What every caption begins with, such as 'a picture of'.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub prompt: String,
    /// Number of beams; 1 is greedy decoding.
    #[arg(long, default_value_t = 3)]
    pub beams: usize,
    /// New tokens before a caption may end.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub min_tokens: usize,
    /// New tokens at most.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub max_tokens: usize,
    /// Makes words that were used less likely; 1 does nothing.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub repetition_penalty: f64,
    /// Write each caption into a text file beside its picture (photo.jpg, photo.txt) instead of
    /// printing it; files that are there are replaced.
    #[arg(long)]
    pub write_txt: bool,
}

/// `capstan match`.
#[derive(Debug, ClapArgs)]
pub struct Match {
    /// A picture (JPEG, PNG, WebP), a folder of pictures, or a pattern such as 'photos/**/*.jpg'.
    pub image: PathBuf,
    /// Texts to score.
    #[arg(required = true, value_name = "TEXT")]
    pub texts: Vec<String>,
    #[command(flatten)]
    pub of_model: OfModel,
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
