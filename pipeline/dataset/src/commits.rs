//! Commit records: the first one wins.
use crate::error::Result;
use crate::store::Store;
use capstan_plan::commit::Commit;
use capstan_plan::id::{RunId, ShardId, StageName};

/// Whose commit stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// This attempt's.
    Mine,
    /// Another attempt's, to be adopted.
    Others(Box<Commit>),
}
/// Creates `runs/<run>/<stage>/<shard>.commit.json`; outputs must be in the store already.
pub async fn commit(_store: &Store, _commit: &Commit) -> Result<Committed> {
    todo!()
}
/// The commit of one task.
pub async fn read(
    _store: &Store,
    _run: &RunId,
    _stage: &StageName,
    _shard: &ShardId,
) -> Result<Option<Commit>> {
    todo!()
}
/// Commits of a stage, by shard.
pub async fn of_stage(_store: &Store, _run: &RunId, _stage: &StageName) -> Result<Vec<Commit>> {
    todo!()
}
/// Commits of a run, by stage and shard.
pub async fn of_run(_store: &Store, _run: &RunId) -> Result<Vec<Commit>> {
    todo!()
}
