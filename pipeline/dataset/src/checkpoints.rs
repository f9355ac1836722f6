//! Checkpoints of a training: `checkpoints/<run>/<stage>/<step>/`, visible by a `COMMIT` created last.
//!
//! ```text
//! checkpoints/<run>/<stage>/<step of 20 digits>/COMMIT          names the folder that counts
//!                                              /<attempt>.<n>/  files of one writer
//! ```
//! A writer that dies leaves files without `COMMIT`. The next writer uses a folder of its own, so
//! their files never mix. Only rank 0 writes.

use std::path::Path;

use capstan_plan::id::{AttemptId, RunId, StageName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::folders::{self, Entry};
use crate::store::{Created, Store, checked};

/// Number of complete checkpoints that are kept.
const KEPT: usize = 2;
/// Tries to read the newest checkpoint, which a writer may replace concurrently.
const FETCH_TRIES: u32 = 5;

/// The content of the `COMMIT` of a complete checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// Completed steps.
    pub step: u64,
    /// The attempt that wrote it.
    pub attempt: AttemptId,
    /// The folder of the writer within the folder of the step.
    pub folder: String,
    /// Its files, by name.
    pub files: Vec<Entry>,
}

fn stage_folder(run: &RunId, stage: &StageName) -> Result<String> {
    let run = checked("run", run.as_str())?;
    Ok(format!(
        "checkpoints/{run}/{}",
        checked("stage", stage.as_str())?
    ))
}

fn step_folder(run: &RunId, stage: &StageName, step: u64) -> Result<String> {
    Ok(format!("{}/{step:020}", stage_folder(run, stage)?))
}

/// Files of a checkpoint in the store, without their `COMMIT`.
#[derive(Debug, Clone)]
pub struct Staged(Checkpoint);

/// Puts the files of a local folder; they become visible with [`commit`].
///
/// # Errors
/// [`Error::Folder`], [`Error::Local`], [`Error::Name`]; those of [`Store::create`].
pub async fn stage(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    step: u64,
    attempt: &AttemptId,
    folder: &Path,
) -> Result<Staged> {
    let at = step_folder(run, stage, step)?;
    let writer = checked("attempt", attempt.as_str())?;
    let taken = store.folders(&at).await?;
    let mut names = (0..).map(|n: u32| format!("{writer}.{n}"));
    let name = names
        .find(|name| !taken.contains(name))
        .expect("fewer folders than numbers");
    let checkpoint = Checkpoint {
        run: run.clone(),
        stage: stage.clone(),
        step,
        attempt: attempt.clone(),
        files: folders::scan(folder).await?,
        folder: name,
    };
    let prefix = format!("{at}/{}", checkpoint.folder);
    folders::upload(store, &prefix, folder, &checkpoint.files).await?;
    Ok(Staged(checkpoint))
}

/// Creates the `COMMIT` of staged files, then deletes all complete checkpoints but the newest
/// two, and older files of dead writers.
///
/// If this step already has a complete checkpoint, of this or another attempt, that one is
/// returned and the staged files are deleted: a recipe has only one state after a step.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn commit(store: &Store, staged: Staged) -> Result<Checkpoint> {
    let Staged(checkpoint) = staged;
    let at = step_folder(&checkpoint.run, &checkpoint.stage, checkpoint.step)?;
    let path = format!("{at}/COMMIT");
    let (run, stage) = (checkpoint.run.clone(), checkpoint.stage.clone());
    let complete = match store.create_json(&path, &checkpoint).await? {
        Created::Created => checkpoint,
        Created::AlreadyExists => {
            delete_under(store, &format!("{at}/{}", checkpoint.folder)).await?;
            read(store, &path).await?.ok_or(Error::NotFound {
                url: store.url().to_owned(),
                path,
            })?
        }
    };
    prune(store, &run, &stage).await?;
    Ok(complete)
}

/// [`stage`], then [`commit`].
///
/// # Errors
/// Those of both.
pub async fn put(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    step: u64,
    attempt: &AttemptId,
    folder: &Path,
) -> Result<Checkpoint> {
    let staged = self::stage(store, run, stage, step, attempt, folder).await?;
    commit(store, staged).await
}

async fn read(store: &Store, path: &str) -> Result<Option<Checkpoint>> {
    store.get_json(path).await
}

/// Steps that have a folder, newest first.
async fn steps(store: &Store, run: &RunId, stage: &StageName) -> Result<Vec<u64>> {
    let names = store.folders(&stage_folder(run, stage)?).await?;
    let mut steps: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// The newest complete checkpoint.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn latest(store: &Store, run: &RunId, stage: &StageName) -> Result<Option<Checkpoint>> {
    for step in steps(store, run, stage).await? {
        let commit = format!("{}/COMMIT", step_folder(run, stage, step)?);
        if let Some(checkpoint) = read(store, &commit).await? {
            return Ok(Some(checkpoint));
        }
    }
    Ok(None)
}

/// The complete checkpoint of one step.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn at_step(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    step: u64,
) -> Result<Option<Checkpoint>> {
    let commit = format!("{}/COMMIT", step_folder(run, stage, step)?);
    read(store, &commit).await
}

/// [`latest`], then [`fetch`]. Tries again if newer checkpoints replaced the one it found before
/// its files were downloaded.
///
/// # Errors
/// Those of both.
pub async fn fetch_latest(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    folder: &Path,
) -> Result<Option<Checkpoint>> {
    let mut tries = 0;
    loop {
        let Some(checkpoint) = latest(store, run, stage).await? else {
            return Ok(None);
        };
        tries += 1;
        match fetch(store, &checkpoint, folder).await {
            Ok(()) => return Ok(Some(checkpoint)),
            Err(Error::NotFound { .. }) if tries < FETCH_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Downloads its files to `folder` and checks their digests. The folder appears complete or not
/// at all; it must be absent or empty.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`], [`Error::Local`], [`Error::StoreFull`].
pub async fn fetch(store: &Store, checkpoint: &Checkpoint, folder: &Path) -> Result<()> {
    let at = step_folder(&checkpoint.run, &checkpoint.stage, checkpoint.step)?;
    let prefix = format!("{at}/{}", checked("attempt", &checkpoint.folder)?);
    folders::download(store, &prefix, &checkpoint.files, folder).await
}

/// Deletes every checkpoint of a stage, once its model is committed.
///
/// # Errors
/// Those of the store.
pub async fn clear(store: &Store, run: &RunId, stage: &StageName) -> Result<()> {
    for step in steps(store, run, stage).await? {
        delete_step(store, run, stage, step).await?;
    }
    Ok(())
}

async fn prune(store: &Store, run: &RunId, stage: &StageName) -> Result<()> {
    let mut complete = 0;
    for step in steps(store, run, stage).await? {
        if complete >= KEPT {
            delete_step(store, run, stage, step).await?;
            continue;
        }
        let commit = format!("{}/COMMIT", step_folder(run, stage, step)?);
        if store.size(&commit).await?.is_some() {
            complete += 1;
        }
    }
    Ok(())
}

/// Deletes `COMMIT` first, so that a partial checkpoint never looks complete.
async fn delete_step(store: &Store, run: &RunId, stage: &StageName, step: u64) -> Result<()> {
    let at = step_folder(run, stage, step)?;
    store.delete(&format!("{at}/COMMIT")).await?;
    delete_under(store, &at).await
}

async fn delete_under(store: &Store, folder: &str) -> Result<()> {
    for object in store.list(folder).await? {
        store.delete(&object.path).await?;
    }
    Ok(())
}
