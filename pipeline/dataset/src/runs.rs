//! `run.json`: what a run was asked to do.
use crate::error::Result;
use crate::store::{Created, Store};
use capstan_plan::id::RunId;
use serde::{Deserialize, Serialize};

/// `runs/<run>/run.json`, created before the first task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// The pipeline, as `plan::Pipeline` serialises.
    pub pipeline: serde_json::Value,
    /// Its seed.
    pub seed: u64,
    /// When it was submitted, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Version of the program that planned it.
    pub program: String,
}
/// Creates the record; one that stands already is left as it is.
pub async fn begin(_store: &Store, _record: &RunRecord) -> Result<Created> {
    todo!()
}
/// The record of a run.
pub async fn read(_store: &Store, _run: &RunId) -> Result<Option<RunRecord>> {
    todo!()
}
/// Every run, by id.
pub async fn list(_store: &Store) -> Result<Vec<RunRecord>> {
    todo!()
}
