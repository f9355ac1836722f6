//! Reading: runs for people, and everything that goes on for a restart.

use std::time::Duration;

use capstan_plan::id::{Digest, LeaseEpoch, RunId};
use capstan_proto::v1;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Database, Error};
use crate::convert::role_named;
use crate::machine::{Key, Lease, Rank, Spec, State, Task};
use crate::view::{RunView, StageView};

/// A run that goes on, as it was written last.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The run.
    pub view: RunView,
    /// Its tasks, in the order in which they were added.
    pub tasks: Vec<(Key, Task)>,
}

impl Database {
    /// Runs without their stages, newest first.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    pub async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error> {
        let rows = sqlx::query("SELECT * FROM runs ORDER BY submitted_unix_ms DESC, run LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read_run).collect()
    }

    /// A run with its stages.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    pub async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error> {
        let row = sqlx::query("SELECT * FROM runs WHERE run = $1")
            .bind(run.as_str())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut view = read_run(&row)?;
        let rows = sqlx::query("SELECT * FROM stages WHERE run = $1 ORDER BY position")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        view.stages = rows.iter().map(read_stage).collect::<Result<_, _>>()?;
        Ok(Some(view))
    }

    /// Runs that go on, with their tasks and leases.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    pub async fn restore(&self) -> Result<Vec<Restored>, Error> {
        let running = v1::RunState::Running.as_str_name();
        let rows = sqlx::query("SELECT run FROM runs WHERE state = $1 ORDER BY submitted_unix_ms")
            .bind(running)
            .fetch_all(&self.pool)
            .await?;
        let mut restored = Vec::with_capacity(rows.len());
        for row in rows {
            let run = RunId(row.try_get("run")?);
            if let Some(view) = self.run(&run).await? {
                restored.push(Restored {
                    tasks: self.tasks(&run).await?,
                    view,
                });
            }
        }
        Ok(restored)
    }

    /// The JSON of a task.
    ///
    /// # Errors
    /// [`Error::Statement`]: the task is not there, too.
    pub async fn task_json(&self, key: &Key) -> Result<String, Error> {
        let row =
            sqlx::query("SELECT task_json FROM tasks WHERE run = $1 AND stage = $2 AND shard = $3")
                .bind(key.run.as_str())
                .bind(key.stage.as_str())
                .bind(key.shard.as_str())
                .fetch_one(&self.pool)
                .await?;
        Ok(row.try_get("task_json")?)
    }

    async fn tasks(&self, run: &RunId) -> Result<Vec<(Key, Task)>, Error> {
        let rows = sqlx::query("SELECT * FROM tasks WHERE run = $1 ORDER BY position")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in &rows {
            let (key, mut task) = read_task(row)?;
            if matches!(task.state, State::Leased(_)) {
                task.state = self.lease(&key).await?.map_or(State::Ready, State::Leased);
            }
            tasks.push((key, task));
        }
        Ok(tasks)
    }

    async fn lease(&self, key: &Key) -> Result<Option<Lease>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM leases WHERE run = $1 AND stage = $2 AND shard = $3 ORDER BY rank",
        )
        .bind(key.run.as_str())
        .bind(key.stage.as_str())
        .bind(key.shard.as_str())
        .fetch_all(&self.pool)
        .await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let lease_epoch = LeaseEpoch {
            generation: count(first, "generation")?,
            counter: count(first, "counter")?,
        };
        let attempt = first.try_get::<String, _>("attempt")?.into();
        let rank = |row: &SqliteRow| -> Result<Rank, Error> {
            Ok(Rank {
                worker: row.try_get::<String, _>("worker")?.into(),
                deadline: Duration::ZERO,
                is_finished: row.try_get::<i64, _>("finished")? != 0,
            })
        };
        let ranks = rows.iter().map(rank).collect::<Result<_, _>>()?;
        Ok(Some(Lease {
            lease_epoch,
            attempt,
            ranks,
        }))
    }
}

fn read_run(row: &SqliteRow) -> Result<RunView, Error> {
    let run: String = row.try_get("run")?;
    let damaged = |reason: String| Error::Damaged {
        table: "runs",
        run: run.clone(),
        reason,
    };
    let state: String = row.try_get("state")?;
    let seed: String = row.try_get("seed")?;
    Ok(RunView {
        pipeline: row.try_get("pipeline")?,
        pipeline_json: row.try_get("pipeline_json")?,
        seed: seed
            .parse()
            .map_err(|_| damaged(format!("seed `{seed}`")))?,
        state: v1::RunState::from_str_name(&state)
            .ok_or_else(|| damaged(format!("state `{state}`")))?,
        reason: row.try_get("reason")?,
        submitted_unix_ms: row.try_get("submitted_unix_ms")?,
        ended_unix_ms: row.try_get("ended_unix_ms")?,
        leased: count(row, "leased")?,
        stages: Vec::new(),
        run: run.into(),
    })
}

fn read_stage(row: &SqliteRow) -> Result<StageView, Error> {
    let run: String = row.try_get("run")?;
    let damaged = |reason: String| Error::Damaged {
        table: "stages",
        run: run.clone(),
        reason,
    };
    let state: String = row.try_get("state")?;
    let quarantined: String = row.try_get("quarantined")?;
    let stage: String = row.try_get("stage")?;
    let kind: String = row.try_get("kind")?;
    Ok(StageView {
        state: v1::StageState::from_str_name(&state)
            .ok_or_else(|| damaged(format!("state `{state}`")))?,
        tasks: count(row, "tasks")?,
        committed: count(row, "committed")?,
        adopted: count(row, "adopted")?,
        quarantined: serde_json::from_str(&quarantined)
            .map_err(|error| damaged(error.to_string()))?,
        started_unix_ms: row.try_get("started_unix_ms")?,
        ended_unix_ms: row.try_get("ended_unix_ms")?,
        output_json: row.try_get("output_json")?,
        ..StageView::new(stage.into(), &kind)
    })
}

/// A task; where it is leased, the lease is still to be read.
fn read_task(row: &SqliteRow) -> Result<(Key, Task), Error> {
    let run: String = row.try_get("run")?;
    let damaged = |reason: String| Error::Damaged {
        table: "tasks",
        run: run.clone(),
        reason,
    };
    let role: String = row.try_get("role")?;
    let base: String = row.try_get("base")?;
    let state: String = row.try_get("state")?;
    let failed_on: String = row.try_get("failed_on")?;
    let last_worker: String = row.try_get("last_worker")?;
    let spec = Spec {
        role: role_named(&role).ok_or_else(|| damaged(format!("role `{role}`")))?,
        world_size: count(row, "world_size")? as usize,
        base: Digest::from_hex(&base),
    };
    let mut task = Task::new(spec);
    task.state = match v1::TaskState::from_str_name(&state) {
        Some(v1::TaskState::Leased) => State::Leased(Lease {
            lease_epoch: LeaseEpoch::default(),
            attempt: String::new().into(),
            ranks: Vec::new(),
        }),
        Some(v1::TaskState::Committed) => State::Committed,
        Some(v1::TaskState::Quarantined) => State::Quarantined,
        Some(v1::TaskState::Cancelled) => State::Cancelled,
        // The clock of the backoff is gone with the process; the restart took its time.
        Some(v1::TaskState::Ready | v1::TaskState::Blocked) => State::Ready,
        Some(v1::TaskState::Unspecified) | None => {
            return Err(damaged(format!("state `{state}`")));
        }
    };
    task.attempts = u32::try_from(count(row, "attempts")?).unwrap_or(u32::MAX);
    task.failed_on = serde_json::from_str(&failed_on).map_err(|e| damaged(e.to_string()))?;
    task.last_worker = (!last_worker.is_empty()).then(|| last_worker.into());
    let key = Key {
        stage: row.try_get::<String, _>("stage")?.into(),
        shard: row.try_get::<String, _>("shard")?.into(),
        run: run.into(),
    };
    Ok((key, task))
}

fn count(row: &SqliteRow, column: &'static str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}
