//! Checkpoints of a training.
use crate::error::Result;
use crate::store::Store;
use capstan_plan::id::{AttemptId, RunId, StageName};
use serde::{Deserialize, Serialize};
use std::path::Path;
/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// Steps done.
    pub step: u64,
    /// Who wrote it.
    pub attempt: AttemptId,
}
/// Puts the files of a local folder, then `COMMIT`; then deletes all but the newest two.
pub async fn put(
    _store: &Store,
    _run: &RunId,
    _stage: &StageName,
    _step: u64,
    _attempt: &AttemptId,
    _folder: &Path,
) -> Result<Checkpoint> {
    todo!()
}
/// The newest complete checkpoint.
pub async fn latest(
    _store: &Store,
    _run: &RunId,
    _stage: &StageName,
) -> Result<Option<Checkpoint>> {
    todo!()
}
/// Brings its files into `folder` (made if absent), verified.
pub async fn fetch(_store: &Store, _checkpoint: &Checkpoint, _folder: &Path) -> Result<()> {
    todo!()
}
/// Deletes every checkpoint of a stage, once its model is committed.
pub async fn clear(_store: &Store, _run: &RunId, _stage: &StageName) -> Result<()> {
    todo!()
}
