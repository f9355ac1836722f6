//! `runs/<run>/run.json`: the submitted pipeline, created before the first task of the run.

use capstan_plan::id::{DeviceKind, RunId, StageName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{Created, Store, checked};

/// `runs/<run>/run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// The pipeline, as `plan::Pipeline` serialises it.
    pub pipeline: serde_json::Value,
    /// The seed of the run.
    pub seed: u64,
    /// When it was submitted, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// The version of the program that planned it.
    pub program: String,
}

fn path(run: &RunId) -> Result<String> {
    Ok(format!("runs/{}/run.json", checked("run", run.as_str())?))
}

/// Creates the record; an existing one is left unchanged.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn begin(store: &Store, record: &RunRecord) -> Result<Created> {
    store.create_json(&path(&record.run)?, record).await
}

/// The record of a run.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn read(store: &Store, run: &RunId) -> Result<Option<RunRecord>> {
    store.get_json(&path(run)?).await
}

/// `runs/<run>/<stage>/device.json`: the kind of device that the stage's models compute on, fixed
/// before its first task. Recipes name it, so a run that continues must find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StageDevice {
    device: DeviceKind,
}

fn device_path(run: &RunId, stage: &StageName) -> Result<String> {
    let (run, stage) = (
        checked("run", run.as_str())?,
        checked("stage", stage.as_str())?,
    );
    Ok(format!("runs/{run}/{stage}/device.json"))
}

/// The kind of device that a stage computes on, where it was fixed.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn device(store: &Store, run: &RunId, stage: &StageName) -> Result<Option<DeviceKind>> {
    let found: Option<StageDevice> = store.get_json(&device_path(run, stage)?).await?;
    Ok(found.map(|found| found.device))
}

/// Fixes the kind of device that a stage computes on. Returns the one that counts: another
/// coordinator may have fixed it first.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn fix_device(
    store: &Store,
    run: &RunId,
    stage: &StageName,
    device: DeviceKind,
) -> Result<DeviceKind> {
    let record = StageDevice { device };
    match store
        .create_json(&device_path(run, stage)?, &record)
        .await?
    {
        Created::Created => Ok(record.device),
        Created::AlreadyExists => {
            let standing = self::device(store, run, stage).await?;
            Ok(standing.unwrap_or(record.device))
        }
    }
}

/// Every run, by id.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn list(store: &Store) -> Result<Vec<RunRecord>> {
    let mut runs = Vec::new();
    for run in store.folders("runs").await? {
        runs.extend(read(store, &RunId::from(run)).await?);
    }
    Ok(runs)
}

/// `runs/<run>/state-<number>.json`: a run ended or was resumed. The last one applies; a run
/// without any is running. A rebuilt database therefore does not resume a cancelled run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The state.
    pub state: RunState,
    /// Why the run failed; empty otherwise.
    pub reason: String,
    /// When the run entered the state, in milliseconds since 1970.
    pub at_ms: i64,
}

/// The recorded state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It was resumed.
    Running,
    /// Every stage is done.
    Done,
    /// It cannot continue.
    Failed,
    /// An operator cancelled it.
    Cancelled,
}

/// Most state changes of one run.
const STANDINGS: u32 = 10_000;

fn standing_path(run: &RunId, number: u32) -> Result<String> {
    let run = checked("run", run.as_str())?;
    Ok(format!("runs/{run}/state-{number:06}.json"))
}

/// The recorded state of a run; `None` if no change was recorded.
///
/// # Errors
/// Those of the store; [`Error::Damaged`].
pub async fn standing(store: &Store, run: &RunId) -> Result<Option<Standing>> {
    match last_standing(store, run).await? {
        0 => Ok(None),
        last => store.get_json(&standing_path(run, last)?).await,
    }
}

/// Records a state change of a run.
///
/// # Errors
/// Those of [`Store::create`]; [`Error::Contended`] after 10,000 changes.
pub async fn stands(store: &Store, run: &RunId, standing: &Standing) -> Result<()> {
    let last = last_standing(store, run).await?;
    for number in last + 1..=STANDINGS {
        let path = standing_path(run, number)?;
        if store.create_json(&path, standing).await? == Created::Created {
            return Ok(());
        }
    }
    Err(Error::Contended {
        url: store.url().to_owned(),
        path: format!("runs/{run}"),
        tries: STANDINGS,
    })
}

/// The number of the last record, 0 if there is none. There are few, so each is looked up in turn.
async fn last_standing(store: &Store, run: &RunId) -> Result<u32> {
    let mut last = 0;
    while last < STANDINGS && store.size(&standing_path(run, last + 1)?).await?.is_some() {
        last += 1;
    }
    Ok(last)
}
