//! Dataset versions.
use crate::error::Result;
use crate::store::Store;
use capstan_plan::commit::{File, Part, VersionRef};
use capstan_plan::id::{DatasetName, RecipeHash, RunId, ShardId, StageName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a stage publishes.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// The dataset.
    pub dataset: DatasetName,
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// Recipes of the stage's tasks, in shard order.
    pub recipes: Vec<RecipeHash>,
    /// The version that the stage read, where it added overlays to one.
    pub derived_from: Option<VersionRef>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Shards that were quarantined: what is missing.
    pub missing: Vec<ShardId>,
    /// Shards, in order.
    pub parts: Vec<Part>,
}
/// `datasets/<name>/versions/%020d.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The dataset.
    pub dataset: DatasetName,
    /// From 1.
    pub number: u64,
    /// The version before it in this dataset.
    pub parent: Option<u64>,
    /// The version that the stage read, where it added overlays to one.
    pub derived_from: Option<VersionRef>,
    /// The run that made it.
    pub run: RunId,
    /// The stage that made it.
    pub stage: StageName,
    /// Recipes of the stage's tasks.
    pub recipes: Vec<RecipeHash>,
    /// Counts by name.
    pub statistics: BTreeMap<String, u64>,
    /// Shards that were quarantined.
    pub missing: Vec<ShardId>,
    /// Manifests: Parquet files that list base files and overlays.
    pub manifests: Vec<File>,
}
/// Writes the manifests and creates the next version; the same (run, stage) again gives the version it made.
pub async fn publish(_store: &Store, _new: NewVersion) -> Result<VersionRef> {
    todo!()
}
/// Reads a version.
pub async fn read(_store: &Store, _version: &VersionRef) -> Result<Version> {
    todo!()
}
/// Its shards, in order.
pub async fn parts(_store: &Store, _version: &VersionRef) -> Result<Vec<Part>> {
    todo!()
}
/// The newest version of a dataset.
pub async fn latest(_store: &Store, _dataset: &DatasetName) -> Result<Option<VersionRef>> {
    todo!()
}
/// The versions of a dataset, oldest first.
pub async fn list(_store: &Store, _dataset: &DatasetName) -> Result<Vec<VersionRef>> {
    todo!()
}
/// Every dataset, by name.
pub async fn datasets(_store: &Store) -> Result<Vec<DatasetName>> {
    todo!()
}
/// `name@3`, or `name` for its newest version.
pub async fn resolve(_store: &Store, _text: &str) -> Result<VersionRef> {
    todo!()
}
