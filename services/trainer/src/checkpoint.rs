//! Checkpoints of a training in the store.

use std::path::{Path, PathBuf};

use capstan_dataset::Store;
use capstan_dataset::checkpoints::{self, Checkpoint};
use capstan_plan::id::{AttemptId, RunId, StageName};
use capstan_runtime::fault;
use capstan_train::{Checkpoints, SourceError, State};
use tokio::runtime::Handle;

use crate::error::Error;

/// Writes the checkpoints of one attempt. Only rank 0 has a writer.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) handle: Handle,
    pub(crate) run: RunId,
    pub(crate) stage: StageName,
    pub(crate) attempt: AttemptId,
    pub(crate) scratch: PathBuf,
}

impl Checkpoints for Writer {
    fn save(&mut self, state: &State) -> Result<(), SourceError> {
        self.write(state).map_err(|error| SourceError {
            kind: error.kind(),
            source: Box::new(error),
        })
    }
}

impl Writer {
    fn write(&self, state: &State) -> Result<(), Error> {
        let folder = self.scratch.join(format!("checkpoint-{}", state.step));
        std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        state.write(&folder)?;
        let committed = self.handle.block_on(self.put(state.step, &folder))?;
        std::fs::remove_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        tracing::info!(
            run = %self.run, stage = %self.stage, step = state.step,
            mine = committed.attempt == self.attempt, "checkpoint committed"
        );
        Ok(())
    }

    async fn put(&self, step: u64, folder: &Path) -> Result<Checkpoint, capstan_dataset::Error> {
        let (store, attempt) = (&self.store, &self.attempt);
        let staged =
            checkpoints::stage(store, &self.run, &self.stage, step, attempt, folder).await?;
        fault::point("trainer.in_checkpoint");
        checkpoints::commit(store, staged).await
    }
}

/// The state of the newest complete checkpoint, if one exists.
pub(crate) async fn latest(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    scratch: &Path,
) -> Result<Option<State>, Error> {
    let folder = scratch.join("resume");
    match checkpoints::fetch_latest(store, run, stage, &folder).await? {
        Some(_) => read(&folder).map(Some),
        None => Ok(None),
    }
}

/// The state of the checkpoint after `step` steps, which another rank found; `None` for 0.
///
/// # Errors
/// [`Error::Rendezvous`] if newer checkpoints have replaced that one.
pub(crate) async fn at_step(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    step: u64,
    scratch: &Path,
) -> Result<Option<State>, Error> {
    if step == 0 {
        return Ok(None);
    }
    let gone = || Error::Rendezvous(format!("the checkpoint at step {step} is gone"));
    let checkpoint = checkpoints::at_step(store, run, stage, step).await?;
    let folder = scratch.join("resume");
    match checkpoints::fetch(store, &checkpoint.ok_or_else(gone)?, &folder).await {
        Err(capstan_dataset::Error::NotFound { .. }) => return Err(gone()),
        fetched => fetched?,
    }
    read(&folder).map(Some)
}

/// Reads the files of a checkpoint and removes them.
fn read(folder: &Path) -> Result<State, Error> {
    let state = State::read(folder)?;
    std::fs::remove_dir_all(folder).map_err(|error| Error::local(folder, error))?;
    Ok(state)
}
