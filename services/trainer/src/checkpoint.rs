//! Checkpoints of a training in the store.

use std::path::PathBuf;

use capstan_dataset::{Store, checkpoints};
use capstan_plan::id::{AttemptId, RunId, StageName};
use capstan_train::{Checkpoints, SourceError, State};
use tokio::runtime::Handle;

use crate::error::Error;

/// Writes the checkpoints of one attempt. Only rank 0 has one.
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
        for (name, bytes) in state.to_files()? {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::local(&path, error))?;
        }
        let put = checkpoints::put(
            &self.store,
            &self.run,
            &self.stage,
            state.step,
            &self.attempt,
            &folder,
        );
        self.handle.block_on(put)?;
        std::fs::remove_dir_all(&folder).map_err(|error| Error::local(&folder, error))
    }
}

/// The state of the newest complete checkpoint, if there is one.
pub(crate) async fn latest(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    scratch: &std::path::Path,
) -> Result<Option<State>, Error> {
    let Some(checkpoint) = checkpoints::latest(store, run, stage).await? else {
        return Ok(None);
    };
    let folder = scratch.join("resume");
    checkpoints::fetch(store, &checkpoint, &folder).await?;
    let mut files = Vec::new();
    let entries = std::fs::read_dir(&folder).map_err(|error| Error::local(&folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| Error::local(&folder, error))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(&path).map_err(|error| Error::local(&path, error))?;
        files.push((name, bytes));
    }
    let state = State::from_files(&files)?;
    std::fs::remove_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
    Ok(Some(state))
}
