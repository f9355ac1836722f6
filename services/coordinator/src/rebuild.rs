//! `state rebuild`: creates the database again from the store.
//!
//! The store has the runs, how they ended, the commits and the published versions. It does not have
//! attempts, failures and pending tasks. The driver of a running run lists the commits of each stage and
//! adds the other tasks to the machine, so no committed task runs again. Quarantined tasks are retried.

use std::collections::BTreeSet;
use std::sync::Arc;

use capstan_dataset::{Store, runs};
use capstan_plan::Pipeline;
use capstan_plan::failure;
use capstan_plan::stage::Stage;
use capstan_proto::v1;
use capstan_runtime::config;

use crate::error::Error;
use crate::generation;
use crate::scheduler::{Survey, Surveyed};
use crate::state::{Database, Known, Op, Sqlite};
use crate::view::{RunView, StageView};

/// What was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Number of runs.
    pub runs: usize,
    /// Number of those that are running.
    pub running: usize,
    /// Number of commits of all runs.
    pub committed: u64,
    /// The newest generation of the store; 0 if no coordinator has served it.
    pub generation: u64,
}

/// Creates the coordinator's database from `runs/*/run.json`, the commits and the versions of the
/// store. It replaces the existing database, damaged or not, once it is complete. A coordinator that
/// serves the store with another database is not notified; it stops when one starts with this
/// database.
///
/// # Errors
/// [`Error::Database`]: a coordinator has locked it, or it cannot be written; [`Error::Store`].
pub async fn rebuild(settings: &config::Coordinator, store: &Store) -> Result<Rebuilt, Error> {
    let mut rebuilt = Rebuilt::default();
    Sqlite::replace(&settings.database, async |database| {
        let newest = generation::newest(store).await?;
        for record in runs::list(store).await? {
            let view = view(store, record).await?;
            rebuilt.runs += 1;
            rebuilt.running += usize::from(view.state == v1::RunState::Running);
            rebuilt.committed += view.stages.iter().map(|s| s.committed).sum::<u64>();
            let at = view.submitted_unix_ms;
            tracing::info!(run = %view.run, state = view.state.as_str_name(), "run found");
            // A new database belongs to no generation.
            database
                .append(0, &[Op::Submit(Box::new(view))], &[], at)
                .await?;
        }
        if let Some(newest) = newest {
            rebuilt.generation = newest.generation;
            let known = Known {
                generation: newest.generation,
                start: newest.start,
                ..Known::default()
            };
            database.know(&known).await?;
        }
        Ok::<_, Error>(())
    })
    .await?;
    Ok(rebuilt)
}

/// The view of a run, from the store.
async fn view(store: &Store, record: runs::RunRecord) -> Result<RunView, Error> {
    let standing = runs::standing(store, &record.run).await?;
    let pipeline_json: Arc<str> = record.pipeline.to_string().into();
    let pipeline: Pipeline = match serde_json::from_value(record.pipeline) {
        Ok(pipeline) => pipeline,
        Err(error) => {
            let reason = format!("this version cannot read its pipeline: {error}");
            tracing::warn!(run = %record.run, reason, "run found");
            return Ok(RunView {
                run: record.run,
                pipeline: String::new(),
                pipeline_json,
                seed: record.seed,
                state: v1::RunState::Failed,
                reason,
                submitted_unix_ms: record.created_at_ms,
                ended_unix_ms: record.created_at_ms,
                leased: 0,
                stages: Vec::new(),
            });
        }
    };
    let submitted = record.created_at_ms;
    let run = record.run.clone();
    let mut view = RunView::new(record.run, &pipeline, pipeline_json, record.seed, submitted);
    if let Some(standing) = standing {
        view.state = match standing.state {
            runs::RunState::Running => v1::RunState::Running,
            runs::RunState::Done => v1::RunState::Done,
            runs::RunState::Failed => v1::RunState::Failed,
            runs::RunState::Cancelled => v1::RunState::Cancelled,
        };
        view.reason = standing.reason;
        if view.state != v1::RunState::Running {
            view.ended_unix_ms = standing.at_ms;
        }
    }
    let survey = Survey {
        store,
        run: &run,
        pipeline: &pipeline,
        includes_adoptable: false,
        device_for: &|stage| stage.device.clone(),
    };
    let is_running = view.state == v1::RunState::Running;
    let stages = match survey.stages().await {
        // The driver will fail this run for it. The other runs are rebuilt regardless.
        Err(Error::Expand(error)) => {
            tracing::warn!(%run, error = failure::chain(&error), "the stages of a run cannot be read");
            Vec::new()
        }
        stages => stages?,
    };
    for (stage, surveyed) in stages {
        if let Some(view) = view.stage_mut(&stage.name) {
            show(view, &stage, surveyed, is_running);
        }
    }
    Ok(view)
}

fn show(view: &mut StageView, stage: &Stage, surveyed: Surveyed, is_running: bool) {
    // A dataset stage is done when its version is published, others when they are committed.
    view.output = surveyed.published();
    view.state = match (view.output.is_some(), is_running) {
        (true, _) => v1::StageState::Done,
        (false, true) if surveyed.committed > 0 => v1::StageState::Running,
        (false, true) => v1::StageState::Waiting,
        (false, false) => v1::StageState::Cancelled,
    };
    tracing::debug!(stage = %stage.name, committed = surveyed.committed, "stage found");
    view.committed = surveyed.committed;
    view.adopted = surveyed.adopted;
    view.tasks = surveyed.tasks.unwrap_or(0).max(surveyed.committed);
    let missing: BTreeSet<_> = surveyed.missing.into_iter().collect();
    for shard in missing {
        let reason = "its version is published without it".to_owned();
        view.quarantined.insert(shard, reason);
    }
}
