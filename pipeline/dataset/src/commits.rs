//! Commit records: `runs/<run>/<stage>/<shard>.commit.json`, created once; the first committer wins.
//!
//! Late and speculative attempts are therefore harmless: the second committer reads the first
//! commit back and adopts it.

use capstan_plan::commit::Commit;
use capstan_plan::id::{RunId, ShardId, StageName};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::store::{Created, Object, Store, checked};

/// Most reads in flight while commits are listed.
pub(crate) const READS: usize = 16;

const SUFFIX: &str = ".commit.json";

/// The attempt whose commit was recorded.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// This attempt's.
    Mine,
    /// Another attempt's, which this attempt adopts.
    Others(Box<Commit>),
}

/// The path of a task's commit.
///
/// # Errors
/// [`Error::Name`].
pub fn path(run: &RunId, stage: &StageName, shard: &ShardId) -> Result<String> {
    let shard = checked("shard", shard.as_str())?;
    Ok(format!("{}/{shard}{SUFFIX}", stage_folder(run, stage)?))
}

fn stage_folder(run: &RunId, stage: &StageName) -> Result<String> {
    let run = checked("run", run.as_str())?;
    Ok(format!("runs/{run}/{}", checked("stage", stage.as_str())?))
}

/// The commit point of a task. Its outputs must be in the store already.
///
/// # Errors
/// Those of [`Store::create`]: the outcome is unknown, and the same commit may be tried again.
pub async fn commit(store: &Store, commit: &Commit) -> Result<Committed> {
    let path = path(&commit.run, &commit.stage, &commit.shard)?;
    if store.create_json(&path, commit).await? == Created::Created {
        return Ok(Committed::Mine);
    }
    let recorded: Commit = store.get_json(&path).await?.ok_or(Error::NotFound {
        url: store.url().to_owned(),
        path,
    })?;
    // An earlier call of the same attempt may have succeeded and lost its answer.
    if recorded.attempt == commit.attempt && recorded.lease_epoch == commit.lease_epoch {
        return Ok(Committed::Mine);
    }
    Ok(Committed::Others(Box::new(recorded)))
}

/// The commit of one task.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn read(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    shard: &ShardId,
) -> Result<Option<Commit>> {
    store.get_json(&path(run, stage, shard)?).await
}

/// The commits of a stage, by shard.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn of_stage(store: &Store, run: &RunId, stage: &StageName) -> Result<Vec<Commit>> {
    read_all(store, store.list(&stage_folder(run, stage)?).await?).await
}

/// The shards of a stage that are committed. Reads no commit.
///
/// # Errors
/// Those of the store.
pub async fn shards_of_stage(
    store: &Store,
    run: &RunId,
    stage: &StageName,
) -> Result<Vec<ShardId>> {
    let names = store.names(&stage_folder(run, stage)?, SUFFIX).await?;
    Ok(names.into_iter().map(ShardId).collect())
}

/// The commits of a run, by stage and shard.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn of_run(store: &Store, run: &RunId) -> Result<Vec<Commit>> {
    let run = checked("run", run.as_str())?;
    read_all(store, store.list(&format!("runs/{run}")).await?).await
}

async fn read_all(store: &Store, objects: Vec<Object>) -> Result<Vec<Commit>> {
    let paths = objects.into_iter().map(|object| object.path);
    let paths: Vec<String> = paths.filter(|path| path.ends_with(SUFFIX)).collect();
    futures::stream::iter(paths)
        .map(|path| async move {
            let bytes = store.get(&path).await?;
            serde_json::from_slice(&bytes).map_err(|error| Error::damaged(path, error))
        })
        .buffered(READS)
        .try_collect()
        .await
}
