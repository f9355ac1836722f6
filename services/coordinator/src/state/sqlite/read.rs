//! Reads: runs for clients, and the running runs for a restart.

use std::collections::HashMap;
use std::time::Duration;

use capstan_plan::id::{Digest, LeaseEpoch, RunId};
use capstan_plan::role::UnknownRole;
use capstan_proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use super::write::{by_stage, chunks, where_in};
use super::{Sqlite, given_up, output};
use crate::machine::{Held, Key, Lease, Rank, Spec, State, Task};
use crate::state::{Error, Restored};
use crate::view::{RunView, StageView};

impl Sqlite {
    pub(super) async fn read_runs(&self, limit: u32) -> Result<Vec<RunView>, Error> {
        let rows = sqlx::query("SELECT * FROM runs ORDER BY submitted_unix_ms DESC, run LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(run_view).collect()
    }

    pub(super) async fn read_run(&self, run: &RunId) -> Result<Option<RunView>, Error> {
        let row = sqlx::query("SELECT * FROM runs WHERE run = $1")
            .bind(run.as_str())
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut view = run_view(&row)?;
        let rows = sqlx::query("SELECT * FROM stages WHERE run = $1 ORDER BY position")
            .bind(run.as_str())
            .fetch_all(&self.readers)
            .await?;
        view.stages = rows.iter().map(read_stage).collect::<Result<_, _>>()?;
        given_up::read(&self.readers, &mut view).await?;
        Ok(Some(view))
    }

    pub(super) async fn read_running(&self) -> Result<Vec<Restored>, Error> {
        let running = v1::RunState::Running.as_str_name();
        let rows = sqlx::query("SELECT run FROM runs WHERE state = $1 ORDER BY submitted_unix_ms")
            .bind(running)
            .fetch_all(&self.readers)
            .await?;
        let mut restored = Vec::with_capacity(rows.len());
        for row in rows {
            let run = RunId::from(row.try_get::<String, _>("run")?);
            if let Some(view) = self.read_run(&run).await? {
                restored.push(Restored {
                    tasks: self.tasks(&run).await?,
                    view,
                });
            }
        }
        Ok(restored)
    }

    pub(super) async fn read_task_jsons(
        &self,
        keys: &[&Key],
    ) -> Result<HashMap<Key, String>, Error> {
        let mut jsons = HashMap::with_capacity(keys.len());
        for of_stage in by_stage(keys) {
            for chunk in chunks(&of_stage) {
                let mut query = QueryBuilder::<sqlx::Sqlite>::new(
                    "SELECT run, stage, shard, task_json FROM tasks",
                );
                where_in(&mut query, chunk);
                for row in query.build().fetch_all(&self.readers).await? {
                    jsons.insert(read_key(&row)?, row.try_get("task_json")?);
                }
            }
        }
        Ok(jsons)
    }

    /// The tasks of a run that are not committed.
    async fn tasks(&self, run: &RunId) -> Result<Vec<(Key, Task)>, Error> {
        let rows = sqlx::query(
            "SELECT t.run, t.stage, t.shard, t.role, t.world_size, t.base, t.device, t.may_twin, \
             COALESCE(s.state, $2) AS state, COALESCE(s.attempts, 0) AS attempts, \
             COALESCE(s.failed_on, '[]') AS failed_on, \
             COALESCE(s.last_worker, '') AS last_worker \
             FROM tasks t LEFT JOIN task_states s \
             ON s.run = t.run AND s.stage = t.stage AND s.shard = t.shard \
             WHERE t.run = $1 ORDER BY t.position",
        )
        .bind(run.as_str())
        .bind(v1::TaskState::Ready.as_str_name())
        .fetch_all(&self.readers)
        .await?;
        let mut leases = self.leases(run).await?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in &rows {
            let (key, mut task) = read_task(row)?;
            let mut held = leases.remove(&key).unwrap_or_default().into_iter();
            if let Some(lease) = held.next() {
                let twin = held.next();
                let numbers = [&lease].into_iter().chain(&twin).map(|lease| lease.number);
                task.attempts = numbers.fold(task.attempts, u32::max);
                task.state = State::Leased(Box::new(Held { lease, twin }));
            }
            tasks.push((key, task));
        }
        Ok(tasks)
    }

    /// Open leases by task, in the order of their epochs.
    async fn leases(&self, run: &RunId) -> Result<HashMap<Key, Vec<Lease>>, Error> {
        let rows = sqlx::query(
            "SELECT run, stage, shard, generation, counter, number, worker, finished \
             FROM attempts WHERE run = $1 AND ended_unix_ms = 0 \
             ORDER BY stage, shard, generation, counter, rank",
        )
        .bind(run.as_str())
        .fetch_all(&self.readers)
        .await?;
        let mut leases: HashMap<Key, Vec<Lease>> = HashMap::new();
        for row in &rows {
            let lease_epoch = LeaseEpoch {
                generation: count(row, "generation")?,
                counter: count(row, "counter")?,
            };
            let rank = Rank {
                worker: row.try_get::<String, _>("worker")?.into(),
                deadline: Duration::ZERO,
                is_finished: row.try_get::<i64, _>("finished")? != 0,
            };
            let of_task = leases.entry(read_key(row)?).or_default();
            match of_task.last_mut() {
                Some(lease) if lease.lease_epoch == lease_epoch => lease.ranks.push(rank),
                _ => of_task.push(Lease {
                    lease_epoch,
                    number: u32::try_from(count(row, "number")?).unwrap_or(u32::MAX),
                    since: Duration::ZERO,
                    ranks: vec![rank],
                }),
            }
        }
        Ok(leases)
    }
}

fn read_key(row: &SqliteRow) -> Result<Key, Error> {
    Ok(Key {
        run: row.try_get::<String, _>("run")?.into(),
        stage: row.try_get::<String, _>("stage")?.into(),
        shard: row.try_get::<String, _>("shard")?.into(),
    })
}

fn run_view(row: &SqliteRow) -> Result<RunView, Error> {
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
        pipeline_json: row.try_get::<&str, _>("pipeline_json")?.into(),
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
    let stage: String = row.try_get("stage")?;
    let kind: String = row.try_get("kind")?;
    let output: String = row.try_get("output_json")?;
    Ok(StageView {
        state: v1::StageState::from_str_name(&state)
            .ok_or_else(|| damaged(format!("state `{state}`")))?,
        tasks: count(row, "tasks")?,
        committed: count(row, "committed")?,
        adopted: count(row, "adopted")?,
        started_unix_ms: row.try_get("started_unix_ms")?,
        ended_unix_ms: row.try_get("ended_unix_ms")?,
        output: output::read(&output).map_err(|error| damaged(error.to_string()))?,
        ..StageView::new(stage.into(), &kind)
    })
}

/// A task without its leases, which the attempts hold.
fn read_task(row: &SqliteRow) -> Result<(Key, Task), Error> {
    let run: String = row.try_get("run")?;
    let damaged = |reason: String| Error::Damaged {
        table: "tasks",
        run: run.clone(),
        reason,
    };
    let role: String = row.try_get("role")?;
    let base: String = row.try_get("base")?;
    let device: String = row.try_get("device")?;
    let state: String = row.try_get("state")?;
    let failed_on: String = row.try_get("failed_on")?;
    let last_worker: String = row.try_get("last_worker")?;
    let spec = Spec {
        role: role
            .parse()
            .map_err(|error: UnknownRole| damaged(error.to_string()))?,
        world_size: count(row, "world_size")? as usize,
        base: Digest::from_hex(&base),
        device: (!device.is_empty()).then(|| device.into()),
        may_twin: row.try_get::<i64, _>("may_twin")? != 0,
    };
    let mut task = Task::new(spec);
    task.state = match v1::TaskState::from_str_name(&state) {
        Some(v1::TaskState::Committed) => State::Committed,
        Some(v1::TaskState::Quarantined) => State::Quarantined,
        Some(v1::TaskState::Cancelled) => State::Cancelled,
        // The backoff ended with the process, and the restart took time too. The attempts show
        // whether it is leased.
        Some(v1::TaskState::Ready | v1::TaskState::Blocked | v1::TaskState::Leased) => State::Ready,
        Some(v1::TaskState::Unspecified) | None => {
            return Err(damaged(format!("state `{state}`")));
        }
    };
    task.attempts = u32::try_from(count(row, "attempts")?).unwrap_or(u32::MAX);
    task.failed_on = serde_json::from_str(&failed_on).map_err(|e| damaged(e.to_string()))?;
    task.last_worker = (!last_worker.is_empty()).then(|| last_worker.into());
    Ok((read_key(row)?, task))
}

fn count(row: &SqliteRow, column: &'static str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}
