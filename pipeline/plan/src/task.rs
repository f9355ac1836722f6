//! A task: everything that a worker needs to know to do one piece of a stage.

use serde::{Deserialize, Serialize};

use crate::commit::{File, Part, VersionRef};
use crate::id::{ModelDigest, RecipeHash, RunId, ShardId, StageName};
use crate::stage;

/// One piece of work. Travels over gRPC as JSON inside a typed message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard; `all` for a global task.
    pub shard: ShardId,
    /// The recipe: tasks of equal recipes give equal outputs.
    pub recipe: RecipeHash,
    /// Seed of the run.
    pub seed: u64,
    /// What is to be done.
    pub work: Work,
}

/// Which role takes a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fetches pages and pictures, imports pairs and models.
    Crawl,
    /// Filters, balances, makes vocabularies.
    Curate,
    /// Captions.
    Caption,
    /// Filters by model.
    Filter,
    /// Evaluates.
    Evaluate,
    /// A rank of a training gang.
    Train,
}

/// A version whose texts are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// The dataset version.
    pub version: VersionRef,
    /// Its shards (as the version lists them).
    pub parts: Vec<Part>,
    /// Which texts.
    pub web: stage::Use,
    /// Which texts.
    pub synthetic: stage::Use,
}

/// Every `of`-th item of a sorted source, from the `index`-th on. All slices of a source together
/// hold each of its items once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// From 0.
    pub index: usize,
    /// Slices of the source, at least 1.
    pub of: usize,
}

impl Default for Slice {
    /// The whole source.
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Slice {
    /// Whether the item at this place of the sorted source is in the slice.
    pub fn holds(&self, place: usize) -> bool {
        place % self.of.max(1) == self.index
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// Global: takes the links of the waves so far and makes the pages of the next wave.
    /// Commits one `Pages` file per shard, none where nothing is left.
    Frontier {
        /// Settings.
        config: stage::Crawl,
        /// The wave to plan, from 0 (the seeds).
        wave: u32,
        /// `Pages` files of all earlier waves: what was seen.
        seen: Vec<File>,
        /// `PageLinks` files of the wave before.
        links: Vec<File>,
    },
    /// Map: fetches the pages of one shard of a wave. Commits `PageLinks`, `ImageLinks`, `Rejects`.
    Pages {
        /// Settings.
        config: stage::Crawl,
        /// The `Pages` file.
        pages: File,
    },
    /// Global: sorts the pictures found into shards by image host. Commits one `Images` file per shard.
    ImageFrontier {
        /// Settings.
        config: stage::Crawl,
        /// `ImageLinks` files of all waves.
        links: Vec<File>,
    },
    /// Map: fetches the pictures of one shard. Commits `Base` files and `Rejects`.
    Images {
        /// Settings.
        config: stage::Crawl,
        /// The `Images` file.
        images: File,
    },
    /// Slice: imports pairs. Commits `Base` files and `Rejects`.
    Import {
        /// Settings.
        config: stage::Import,
        /// Which slice of the source: items `i` of its sorted order with `i % of == index`.
        #[serde(default)]
        slice: Slice,
    },
    /// Global: brings in a model. Commits a model folder.
    Model {
        /// Settings.
        config: stage::GivenModel,
    },
    /// Map: curates one shard. Commits a `Curation` overlay.
    Curate {
        /// Settings.
        config: stage::Curate,
        /// The shard.
        part: Part,
    },
    /// Global: balances. Commits one `Curation` overlay per shard, in order.
    Balance {
        /// Settings.
        config: stage::Balance,
        /// The shards.
        parts: Vec<Part>,
    },
    /// Global: makes a vocabulary. Commits a tokenizer folder.
    Tokenizer {
        /// Settings.
        config: stage::Tokenizer,
        /// The texts, in the order of the settings.
        data: Vec<Data>,
    },
    /// Gang: trains. Commits a model folder.
    Train {
        /// Settings.
        config: stage::Train,
        /// The samples, in the order of the settings.
        data: Vec<Data>,
        /// The vocabulary.
        tokenizer: ModelDigest,
        /// The model to go on from.
        init: Option<ModelDigest>,
    },
    /// Map: captions one shard. Commits a `Captions` overlay.
    Caption {
        /// Settings.
        config: stage::Caption,
        /// The shard.
        part: Part,
        /// The captioner.
        model: ModelDigest,
    },
    /// Map: judges one shard. Commits a `Verdicts` overlay.
    Filter {
        /// Settings.
        config: stage::Filter,
        /// The shard.
        part: Part,
        /// The filter.
        model: ModelDigest,
    },
    /// Global: measures. Commits figures.
    Evaluate {
        /// Settings.
        config: stage::Evaluate,
        /// The model.
        model: ModelDigest,
        /// The fine-tuned one.
        captioner: Option<ModelDigest>,
        /// Shards of the retrieval set.
        retrieval: Vec<Part>,
        /// Shards of the captioning set.
        captioning: Vec<Part>,
        /// Shards of the zero-shot set.
        zero_shot: Vec<Part>,
    },
}

impl Work {
    /// Which role takes it.
    pub fn role(&self) -> Role {
        match self {
            Self::Frontier { .. }
            | Self::Pages { .. }
            | Self::ImageFrontier { .. }
            | Self::Images { .. }
            | Self::Import { .. }
            | Self::Model { .. } => Role::Crawl,
            Self::Curate { .. } | Self::Balance { .. } | Self::Tokenizer { .. } => Role::Curate,
            Self::Caption { .. } => Role::Caption,
            Self::Filter { .. } => Role::Filter,
            Self::Evaluate { .. } => Role::Evaluate,
            Self::Train { .. } => Role::Train,
        }
    }

    /// Ranks that must take it together; 1 for all but training.
    pub fn world_size(&self) -> usize {
        match self {
            Self::Train { config, .. } => config.world_size,
            _ => 1,
        }
    }
}
