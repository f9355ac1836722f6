//! The stages of a pipeline and everything that can be set on each.
//!
//! Every struct is the table that stands in the pipeline file, unknown keys are
//! refused, and what is left out takes the default written here.

use serde::{Deserialize, Serialize};

use crate::id::{DatasetName, StageName};

mod import;

pub use import::{GivenModel, Import, ImportFormat};

/// One stage: its name and what it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Unique within the pipeline; `[a-z0-9_]`.
    pub name: StageName,
    /// Quarantined shards that it may have before the run fails; the pipeline's where not given.
    pub max_quarantined: Option<u64>,
    /// What it does, with its settings.
    pub kind: Kind,
}

/// What a stage does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// Fetches pages, then images, in waves from seeds.
    Crawl(Crawl),
    /// Brings pairs that somebody has into a dataset.
    Import(Import),
    /// Brings in a model that somebody has.
    Model(GivenModel),
    /// Filters and matches texts, shard by shard.
    Curate(Curate),
    /// Drops exact duplicates and caps queries, over all shards.
    Balance(Balance),
    /// Makes one vocabulary for all arms.
    Tokenizer(Tokenizer),
    /// Trains a model on a gang of ranks.
    Train(Train),
    /// Writes synthetic texts, shard by shard.
    Caption(Caption),
    /// Judges web and synthetic texts, shard by shard.
    Filter(Filter),
    /// Measures a model.
    Evaluate(Evaluate),
}

/// How a stage is split into tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Global and map steps in turn (a crawl).
    Waves,
    /// One task a shard of the input.
    PerShard,
    /// As many tasks as the stage asks for, each a slice of one source.
    Slices,
    /// One task, committed as shard `all`.
    Global,
    /// One task leased to all ranks together, committed by rank 0 as shard `all`.
    Gang,
}

impl Kind {
    /// The kind as the pipeline file writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Crawl(_) => "crawl",
            Self::Import(_) => "import",
            Self::Model(_) => "model",
            Self::Curate(_) => "curate",
            Self::Balance(_) => "balance",
            Self::Tokenizer(_) => "tokenizer",
            Self::Train(_) => "train",
            Self::Caption(_) => "caption",
            Self::Filter(_) => "filter",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// Version of the code behind this kind. Raise it whenever equal settings and
    /// inputs would give other rows, so that old recipes are not adopted.
    pub fn version(&self) -> u32 {
        1
    }

    /// How it is split into tasks.
    pub fn split(&self) -> Split {
        match self {
            Self::Crawl(_) => Split::Waves,
            Self::Curate(_) | Self::Caption(_) | Self::Filter(_) => Split::PerShard,
            Self::Import(import) if import.shards() > 1 => Split::Slices,
            Self::Import(_)
            | Self::Model(_)
            | Self::Balance(_)
            | Self::Tokenizer(_)
            | Self::Evaluate(_) => Split::Global,
            Self::Train(_) => Split::Gang,
        }
    }

    /// The stages whose outputs it reads, in a fixed order, each once.
    pub fn inputs(&self) -> Vec<StageName> {
        let mut inputs: Vec<StageName> = match self {
            Self::Crawl(_) | Self::Import(_) | Self::Model(_) => Vec::new(),
            Self::Curate(stage) => vec![stage.from.clone()],
            Self::Balance(stage) => vec![stage.from.clone()],
            Self::Tokenizer(stage) => stage.data.iter().map(|s| s.from.clone()).collect(),
            Self::Train(stage) => {
                let data = stage.data.iter().map(|source| source.from.clone());
                data.chain([stage.tokenizer.clone()])
                    .chain(stage.init.clone())
                    .collect()
            }
            Self::Caption(stage) => vec![stage.from.clone(), stage.model.clone()],
            Self::Filter(stage) => vec![stage.from.clone(), stage.model.clone()],
            Self::Evaluate(stage) => [stage.model.clone()]
                .into_iter()
                .chain(stage.captioner.clone())
                .chain(stage.retrieval.as_ref().map(|r| r.from.clone()))
                .chain(stage.captioning.as_ref().map(|c| c.from.clone()))
                .chain(stage.zero_shot.as_ref().map(|z| z.from.clone()))
                .collect(),
        };
        let mut seen = std::collections::BTreeSet::new();
        inputs.retain(|name| seen.insert(name.clone()));
        inputs
    }
}

/// Which of a dataset's texts are used. Human texts always are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The stage whose dataset version is read.
    pub from: StageName,
    /// Web texts that curation kept.
    #[serde(default = "Use::all")]
    pub web: Use,
    /// Synthetic texts.
    #[serde(default = "Use::none")]
    pub synthetic: Use,
}

/// How much of a kind of text is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// Every one.
    All,
    /// Those that the filter kept.
    Kept,
    /// None.
    None,
}

impl Use {
    fn all() -> Self {
        Self::All
    }

    fn none() -> Self {
        Self::None
    }
}

/// How pictures are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storing {
    /// Longest side of a stored picture in pixels; larger ones are shrunk.
    pub max_side_px: u32,
    /// Shortest side that a picture may have as downloaded.
    pub min_side_px: u32,
    /// Most pixels that a header may claim.
    pub max_pixels: u64,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// Rows in a base file at most.
    pub rows_per_file: usize,
    /// Bytes of a base file and its pixels at most; a single larger picture has a file of its own.
    #[serde(skip_serializing_if = "Storing::is_default_bytes_per_file")]
    pub bytes_per_file: u64,
}

impl Storing {
    /// Default of [`Storing::bytes_per_file`].
    const BYTES_PER_FILE: u64 = 256 << 20;

    /// Recipes hold the settings as JSON, so the default is left out of it.
    fn is_default_bytes_per_file(bytes: &u64) -> bool {
        *bytes == Self::BYTES_PER_FILE
    }
}

impl Default for Storing {
    fn default() -> Self {
        Self {
            max_side_px: 384,
            min_side_px: 32,
            max_pixels: 89_478_484,
            jpeg_quality: 95,
            rows_per_file: 4096,
            bytes_per_file: Self::BYTES_PER_FILE,
        }
    }
}

/// `kind = "crawl"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crawl {
    /// The dataset whose base files it writes.
    pub dataset: DatasetName,
    /// Pages to begin with.
    pub seeds: Vec<String>,
    /// Label of the state of the web: an equal label adopts an earlier crawl.
    pub snapshot: String,
    /// Product token for robots.txt and the user agent header.
    #[serde(default = "defaults::user_agent")]
    pub user_agent: String,
    /// Links from a seed at most.
    #[serde(default = "defaults::max_depth")]
    pub max_depth: u32,
    /// Pages fetched at most, over all waves.
    #[serde(default = "defaults::max_pages")]
    pub max_pages: u64,
    /// Pictures fetched at most.
    #[serde(default = "defaults::max_images")]
    pub max_images: u64,
    /// Map tasks of a wave at most; hosts are spread over them by hash.
    #[serde(default = "defaults::shards")]
    pub shards: usize,
    /// Requests in flight at most, over all hosts of a task.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Requests in flight at most to one host.
    #[serde(default = "defaults::concurrency_per_host")]
    pub concurrency_per_host: usize,
    /// Least time between two requests to one host, in milliseconds; robots.txt may ask for more.
    #[serde(default)]
    pub host_interval_ms: u64,
    /// Limit for one request with its redirects, in milliseconds.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: u64,
    /// Redirects followed at most.
    #[serde(default = "defaults::max_redirects")]
    pub max_redirects: u32,
    /// Tries of a request that fails for a transient cause (429, 5xx, network).
    #[serde(default = "defaults::tries")]
    pub tries: u32,
    /// Bytes of a page at most.
    #[serde(default = "defaults::max_page_bytes")]
    pub max_page_bytes: u64,
    /// Bytes of a picture at most.
    #[serde(default = "defaults::max_image_bytes")]
    pub max_image_bytes: u64,
    /// Bytes of a text at most; a pair with a longer one is a reject.
    #[serde(default = "defaults::max_text_bytes")]
    pub max_text_bytes: usize,
    /// How pictures are stored.
    #[serde(default)]
    pub storing: Storing,
}

/// `kind = "curate"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curate {
    /// The stage whose dataset is curated.
    pub from: StageName,
    /// Characters of a text at least.
    #[serde(default = "defaults::min_chars")]
    pub min_chars: usize,
    /// Characters of a text at most.
    #[serde(default = "defaults::max_chars")]
    pub max_chars: usize,
    /// Words of a text at least.
    #[serde(default = "defaults::one")]
    pub min_words: usize,
    /// Words of a text at most.
    #[serde(default = "defaults::max_words")]
    pub max_words: usize,
    /// Longer side over shorter side at most.
    #[serde(default = "defaults::max_aspect")]
    pub max_aspect: f32,
    /// The query list; a text that matches none is dropped. Matching is as MetaCLIP does it:
    /// whole words, case kept.
    pub queries: Vec<String>,
}

/// How queries are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceMode {
    /// A hard cap of pairs per query, chosen by hash (WIT).
    Wit,
    /// Kept with probability `1 - prod(1 - min(1, cap / count))` (MetaCLIP).
    Metaclip,
}

/// `kind = "balance"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The stage whose dataset is balanced.
    pub from: StageName,
    /// How.
    #[serde(default = "defaults::balance_mode")]
    pub mode: BalanceMode,
    /// Pairs per query (t in MetaCLIP).
    #[serde(default = "defaults::cap")]
    pub cap: u64,
}

/// `kind = "tokenizer"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// The texts it learns from.
    pub data: Vec<Source>,
    /// Times a word must be seen to become a token.
    #[serde(default = "defaults::min_count")]
    pub min_count: u64,
    /// Tokens at most.
    #[serde(default = "defaults::max_vocab")]
    pub max_vocab: usize,
}

/// Which family a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Two encoders, contrastive.
    Clip,
    /// Multimodal mixture of encoder and decoder.
    Blip,
}

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// CLIP or BLIP.
    pub family: Family,
    /// Side of the picture that the model sees, in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of both towers.
    pub width: usize,
    /// Attention heads of both towers.
    pub heads: usize,
    /// Layers of the ViT.
    pub vision_layers: usize,
    /// Layers of the text transformer.
    pub text_layers: usize,
    /// Width of the shared embedding space.
    pub projection: usize,
    /// Tokens of a text at most, special ones included.
    pub max_text_tokens: usize,
}

/// A part of an objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Image-text contrastive.
    Itc,
    /// Image-text matching with hard negatives.
    Itm,
    /// Language modelling.
    Lm,
}

/// `kind = "train"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The model's sizes; left out where `init` names a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// A stage whose model is trained further, instead of starting from drawn weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<StageName>,
    /// The samples.
    pub data: Vec<Source>,
    /// The stage whose vocabulary is used.
    pub tokenizer: StageName,
    /// What is minimised: `["itc"]` for CLIP; any of `itc, itm, lm` for BLIP.
    pub objectives: Vec<Objective>,
    /// Optimiser steps.
    pub steps: u64,
    /// Samples of a step, over all ranks.
    pub global_batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps that warm up.
    #[serde(default = "defaults::warmup")]
    pub warmup: f64,
    /// Learning rate at the end, as a share of the peak.
    #[serde(default = "defaults::final_rate")]
    pub final_rate: f64,
    /// Weight decay (none on gains, biases, embeddings, temperatures).
    #[serde(default = "defaults::weight_decay")]
    pub weight_decay: f64,
    /// AdamW's betas.
    #[serde(default = "defaults::betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "defaults::epsilon")]
    pub epsilon: f64,
    /// Largest global norm of the gradient.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: f64,
    /// Label smoothing of LM.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Shift of the picture in pixels at most, edges repeated.
    #[serde(default)]
    pub shift_px: u32,
    /// Brightness jitter: factor `1 +- jitter`, offset `+- jitter / 2`.
    #[serde(default)]
    pub brightness_jitter: f32,
    /// Batches of one window that are sorted by text length together; 1 sorts nothing.
    #[serde(default = "defaults::length_bucket")]
    pub length_bucket: usize,
    /// Ranks of the gang.
    #[serde(default = "defaults::world_size")]
    pub world_size: usize,
    /// Threads that each rank computes on.
    #[serde(default = "defaults::one")]
    pub threads_per_rank: usize,
    /// Steps between two checkpoints; 0 writes none.
    #[serde(default = "defaults::checkpoint_steps")]
    pub checkpoint_steps: u64,
}

/// How a decoder chooses the next token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// The likeliest token.
    Greedy,
    /// The likeliest of several sequences.
    Beam {
        /// Sequences kept.
        beams: usize,
    },
    /// Drawn from the smallest set of tokens whose probability reaches `top_p`.
    Nucleus {
        /// The probability to reach.
        top_p: f64,
    },
}

/// Decoding settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoding {
    /// How the next token is chosen.
    pub choose: Strategy,
    /// Tokens before the stop token at least.
    #[serde(default = "defaults::min_tokens")]
    pub min_tokens: usize,
    /// Tokens at most.
    #[serde(default = "defaults::max_tokens")]
    pub max_tokens: usize,
    /// Penalty on tokens already there; 1 is none.
    #[serde(default = "defaults::one_f64")]
    pub repetition_penalty: f64,
}

/// `kind = "caption"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    /// The stage whose dataset is captioned.
    pub from: StageName,
    /// The stage whose model writes.
    pub model: StageName,
    /// How it writes.
    pub decoding: Decoding,
    /// Pictures at a time.
    #[serde(default = "defaults::inference_batch")]
    pub batch: usize,
    /// Texts per picture.
    #[serde(default = "defaults::one")]
    pub captions_per_image: usize,
}

/// `kind = "filter"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The stage whose texts are judged.
    pub from: StageName,
    /// The stage whose model judges.
    pub model: StageName,
    /// Least probability of a match (ITM) of a text that is kept.
    #[serde(default = "defaults::threshold")]
    pub threshold: f32,
    /// Pictures at a time.
    #[serde(default = "defaults::inference_batch")]
    pub batch: usize,
}

/// Retrieval among the pictures and texts of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// The stage whose dataset holds pictures with their reference texts.
    pub from: StageName,
    /// Candidates re-scored by ITM (BLIP); 0 re-ranks nothing.
    #[serde(default)]
    pub rerank: usize,
}

/// Captioning against reference texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captioning {
    /// The stage whose dataset holds pictures with their reference texts.
    pub from: StageName,
    /// How captions are written.
    pub decoding: Decoding,
}

/// Zero-shot classification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot {
    /// The stage whose dataset holds pictures with their class as the one text.
    pub from: StageName,
    /// Templates, `{}` stands for the class; their normalised embeddings are averaged.
    pub templates: Vec<String>,
}

/// `kind = "evaluate"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The stage whose model is measured.
    pub model: StageName,
    /// The same model after LM fine-tuning, for `captioning_fine_tuned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioner: Option<StageName>,
    /// Retrieval, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// Captioning, where asked for (BLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioning: Option<Captioning>,
    /// Zero-shot classification, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShot>,
    /// Whether everything is measured once more with the pictures permuted so that none keeps its place.
    #[serde(default)]
    pub blind: bool,
}

mod defaults {
    use super::BalanceMode;

    pub fn user_agent() -> String {
        "capstanbot".to_owned()
    }
    pub fn max_depth() -> u32 {
        8
    }
    pub fn max_pages() -> u64 {
        100_000
    }
    pub fn max_images() -> u64 {
        1_000_000
    }
    pub fn shards() -> usize {
        16
    }
    pub fn concurrency() -> usize {
        32
    }
    pub fn concurrency_per_host() -> usize {
        4
    }
    pub fn timeout_ms() -> u64 {
        10_000
    }
    pub fn max_redirects() -> u32 {
        5
    }
    pub fn tries() -> u32 {
        3
    }
    pub fn max_page_bytes() -> u64 {
        16 << 20
    }
    pub fn max_image_bytes() -> u64 {
        16 << 20
    }
    pub fn max_text_bytes() -> usize {
        64 << 10
    }
    pub fn min_chars() -> usize {
        5
    }
    pub fn max_chars() -> usize {
        1000
    }
    pub fn max_words() -> usize {
        256
    }
    pub fn max_aspect() -> f32 {
        3.0
    }
    pub fn balance_mode() -> BalanceMode {
        BalanceMode::Wit
    }
    pub fn cap() -> u64 {
        20_000
    }
    pub fn min_count() -> u64 {
        2
    }
    pub fn max_vocab() -> usize {
        30_524
    }
    pub fn warmup() -> f64 {
        0.1
    }
    pub fn final_rate() -> f64 {
        0.02
    }
    pub fn weight_decay() -> f64 {
        0.05
    }
    pub fn betas() -> [f64; 2] {
        [0.9, 0.98]
    }
    pub fn epsilon() -> f64 {
        1e-8
    }
    pub fn clip_norm() -> f64 {
        1.0
    }
    pub fn length_bucket() -> usize {
        4
    }
    pub fn world_size() -> usize {
        2
    }
    pub fn checkpoint_steps() -> u64 {
        200
    }
    pub fn one() -> usize {
        1
    }
    pub fn one_f64() -> f64 {
        1.0
    }
    pub fn min_tokens() -> usize {
        4
    }
    pub fn max_tokens() -> usize {
        30
    }
    pub fn inference_batch() -> usize {
        64
    }
    pub fn threshold() -> f32 {
        0.5
    }
}
