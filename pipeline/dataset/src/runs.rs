//! `runs/<run>/run.json`: what a run was asked to do, created before its first task.

use capstan_plan::id::RunId;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{Created, Store, checked};

/// `runs/<run>/run.json`.
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

fn path(run: &RunId) -> Result<String> {
    Ok(format!("runs/{}/run.json", checked("run", run.as_str())?))
}

/// Creates the record; one that stands already is left as it is.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn begin(store: &Store, record: &RunRecord) -> Result<Created> {
    store.create_json(&path(&record.run)?, record).await
}

/// The record of a run.
///
/// # Errors
/// Those of the store; [`Error::Damaged`](crate::Error::Damaged).
pub async fn read(store: &Store, run: &RunId) -> Result<Option<RunRecord>> {
    store.get_json(&path(run)?).await
}

/// Every run, by id.
///
/// # Errors
/// Those of the store; [`Error::Damaged`](crate::Error::Damaged).
pub async fn list(store: &Store) -> Result<Vec<RunRecord>> {
    let mut runs = Vec::new();
    for run in store.folders("runs").await? {
        runs.extend(read(store, &RunId(run)).await?);
    }
    Ok(runs)
}
