//! A task: everything that a worker needs to know to do one piece of a stage.

use serde::{Deserialize, Serialize};

use crate::commit::Shards;
use crate::id::{Digest, RecipeHash, RunId, ShardId, StageName};
use crate::stage;

pub use crate::stage::Work;

/// One piece of work. Travels over gRPC as JSON inside a typed message, whose size depends neither
/// on the number of shards nor on the settings.
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
    /// Digest of the settings of the stage, which the store holds once for all of its tasks.
    pub settings: Digest,
    /// The work.
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
    /// The shards of the version.
    pub shards: Shards,
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
