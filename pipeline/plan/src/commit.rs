//! What a task leaves behind: the commit record, and what a whole stage produced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{
    AttemptId, DatasetName, Digest, LeaseEpoch, ModelDigest, RecipeHash, RunId, ShardId, StageName,
    WorkerId,
};
use crate::reject::RejectCode;

/// What a file of `data/` holds; each kind has its own Parquet schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Pairs with their pictures.
    Base,
    /// Keep and reason, aligned with a base file.
    Curation,
    /// Synthetic texts, aligned with a base file.
    Captions,
    /// Scores and verdicts, aligned with a base file.
    Verdicts,
    /// What was refused and why.
    Rejects,
    /// Pages to fetch (a shard of a wave).
    Pages,
    /// Pictures to fetch (a shard of the last wave).
    Images,
    /// Pages found by a wave.
    PageLinks,
    /// Pictures found by a wave.
    ImageLinks,
    /// Base files and overlays of a dataset version.
    Manifest,
}

/// A file of `data/`, by the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct File {
    /// What it holds.
    pub kind: FileKind,
    /// blake3 of its bytes: its name, `data/<digest>.parquet`.
    pub digest: Digest,
    /// blake3 of its rows without times: equal rows, equal digest, whatever the file.
    pub rows_digest: Digest,
    /// Rows.
    pub rows: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// For an overlay, the base file that it is aligned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
}

/// A base file and its overlays, oldest first: one shard of a dataset version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The pairs.
    pub base: File,
    /// What later stages said of them. Of two overlays of one kind the later one
    /// stands (a second curation narrows the first: a row stays where both keep it).
    #[serde(default)]
    pub overlays: Vec<File>,
}

/// A version of a dataset by name and number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionRef {
    /// The dataset.
    pub dataset: DatasetName,
    /// Its version, from 1.
    pub number: u64,
}

impl std::fmt::Display for VersionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.dataset, self.number)
    }
}

/// What one task made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Outputs {
    /// Files of `data/`, in the order that counts.
    #[serde(default)]
    pub files: Vec<File>,
    /// A model folder (trained model, tokenizer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelDigest>,
    /// Figures (an evaluation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<crate::results::Evaluation>,
    /// The course of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<crate::results::Training>,
    /// Refused pictures, pages or records, by code.
    #[serde(default)]
    pub rejects: BTreeMap<RejectCode, u64>,
    /// Counts for statistics, by name (`found`, `fetched`, `pages`, `texts` ...).
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
}

/// `runs/<run>/<stage>/<shard>.commit.json`: created once; the first one wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard; `all` for a global task.
    pub shard: ShardId,
    /// Who made it.
    pub attempt: AttemptId,
    /// Where.
    pub worker: WorkerId,
    /// Under which lease.
    pub lease_epoch: LeaseEpoch,
    /// What it was made of.
    pub recipe: RecipeHash,
    /// Files and models read.
    pub inputs: Vec<Digest>,
    /// What was made.
    pub outputs: Outputs,
    /// Wall time of the work in seconds. A time: no part of any comparison.
    pub wall_seconds: f64,
    /// CPU time of the work in seconds. A time: no part of any comparison.
    pub cpu_seconds: f64,
    /// Whether an earlier run's commit of the same recipe was adopted instead of working.
    #[serde(default)]
    pub adopted: bool,
}

/// What a finished stage offers to later ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOutput {
    /// A dataset version.
    Dataset {
        /// Its name and number.
        version: VersionRef,
        /// Its shards, in order.
        parts: Vec<Part>,
    },
    /// A model or tokenizer folder.
    Model {
        /// Its digest.
        digest: ModelDigest,
    },
    /// Figures; nothing reads them but reports.
    Figures,
}

impl StageOutput {
    /// The output without its shards.
    pub fn reference(&self) -> OutputRef {
        match self {
            Self::Dataset { version, parts } => OutputRef::Dataset {
                version: version.clone(),
                parts: parts.len() as u64,
            },
            Self::Model { digest } => OutputRef::Model { digest: *digest },
            Self::Figures => OutputRef::Figures,
        }
    }
}

/// What a finished stage produced, by reference: its size does not grow with the shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputRef {
    /// A dataset version.
    Dataset {
        /// Its name and number.
        version: VersionRef,
        /// Its shards; 0 where a record of an earlier program version did not count them.
        parts: u64,
    },
    /// A model or tokenizer folder.
    Model {
        /// Its digest.
        digest: ModelDigest,
    },
    /// Figures, in the commit record.
    Figures,
}
