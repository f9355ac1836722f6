//! Writing: each call is one transaction.

use sqlx::{Sqlite, Transaction};

use super::{Database, Error};
use crate::convert::{role_name, task_state};
use crate::machine::{Change, Key, Lease, Spec, State};
use crate::view::{RunView, StageView};

/// A task to be added.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Its key.
    pub key: Key,
    /// Who can take it.
    pub spec: Spec,
    /// `plan::task::Task` as JSON.
    pub task_json: String,
}

impl Database {
    /// Writes a run that was submitted, or submitted again: its tasks, leases and attempts of
    /// an earlier time are forgotten.
    ///
    /// # Errors
    /// [`Error::Statement`]; nothing is written then.
    pub async fn submit(&self, view: &RunView) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let forgotten = [
            "DELETE FROM stages WHERE run = $1",
            "DELETE FROM tasks WHERE run = $1",
            "DELETE FROM leases WHERE run = $1",
            "DELETE FROM attempts WHERE run = $1",
        ];
        for statement in forgotten {
            let run = view.run.as_str();
            sqlx::query(statement)
                .bind(run)
                .execute(&mut *transaction)
                .await?;
        }
        write_run(&mut transaction, view).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Writes tasks of one run that wait for workers; those that stand already are left as they are.
    ///
    /// # Errors
    /// [`Error::Statement`]; nothing is written then.
    pub async fn add_tasks(&self, tasks: &[NewTask]) -> Result<(), Error> {
        let Some(first) = tasks.first() else {
            return Ok(());
        };
        let mut transaction = self.pool.begin().await?;
        let (last,): (i64,) =
            sqlx::query_as("SELECT COALESCE(MAX(position), 0) FROM tasks WHERE run = $1")
                .bind(first.key.run.as_str())
                .fetch_one(&mut *transaction)
                .await?;
        for (task, position) in tasks.iter().zip(last + 1..) {
            sqlx::query(
                "INSERT INTO tasks (run, stage, shard, position, role, world_size, base, state, \
                 attempts, failed_on, last_worker, message, task_json) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '[]', '', '', $9) \
                 ON CONFLICT (run, stage, shard) DO NOTHING",
            )
            .bind(task.key.run.as_str())
            .bind(task.key.stage.as_str())
            .bind(task.key.shard.as_str())
            .bind(position)
            .bind(role_name(task.spec.role))
            .bind(number(task.spec.world_size as u64))
            .bind(
                task.spec
                    .base
                    .map(|base| base.to_string())
                    .unwrap_or_default(),
            )
            .bind(task_state(&State::Ready).as_str_name())
            .bind(&task.task_json)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Writes what changed, in order, and the runs that it concerns.
    ///
    /// # Errors
    /// [`Error::Statement`]; nothing is written then.
    pub async fn write(
        &self,
        changes: &[Change],
        views: &[&RunView],
        now_unix_ms: i64,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        for change in changes {
            write_change(&mut transaction, change, now_unix_ms).await?;
        }
        for view in views {
            write_run(&mut transaction, view).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn write_run(
    transaction: &mut Transaction<'static, Sqlite>,
    view: &RunView,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO runs (run, pipeline, pipeline_json, seed, state, reason, submitted_unix_ms, \
         ended_unix_ms, leased) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (run) DO UPDATE SET pipeline = excluded.pipeline, \
         pipeline_json = excluded.pipeline_json, seed = excluded.seed, state = excluded.state, \
         reason = excluded.reason, submitted_unix_ms = excluded.submitted_unix_ms, \
         ended_unix_ms = excluded.ended_unix_ms, leased = excluded.leased",
    )
    .bind(view.run.as_str())
    .bind(&view.pipeline)
    .bind(&view.pipeline_json)
    .bind(view.seed.to_string())
    .bind(view.state.as_str_name())
    .bind(&view.reason)
    .bind(view.submitted_unix_ms)
    .bind(view.ended_unix_ms)
    .bind(number(view.leased))
    .execute(&mut **transaction)
    .await?;
    for (position, stage) in view.stages.iter().enumerate() {
        write_stage(transaction, view, position, stage).await?;
    }
    Ok(())
}

async fn write_stage(
    transaction: &mut Transaction<'static, Sqlite>,
    view: &RunView,
    position: usize,
    stage: &StageView,
) -> Result<(), Error> {
    let quarantined = serde_json::to_string(&stage.quarantined).expect("text by text");
    sqlx::query(
        "INSERT INTO stages (run, stage, position, kind, state, tasks, committed, adopted, \
         quarantined, started_unix_ms, ended_unix_ms, output_json) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (run, stage) DO UPDATE SET state = excluded.state, tasks = excluded.tasks, \
         committed = excluded.committed, adopted = excluded.adopted, \
         quarantined = excluded.quarantined, started_unix_ms = excluded.started_unix_ms, \
         ended_unix_ms = excluded.ended_unix_ms, output_json = excluded.output_json",
    )
    .bind(view.run.as_str())
    .bind(stage.stage.as_str())
    .bind(number(position as u64))
    .bind(&stage.kind)
    .bind(stage.state.as_str_name())
    .bind(number(stage.tasks))
    .bind(number(stage.committed))
    .bind(number(stage.adopted))
    .bind(quarantined)
    .bind(stage.started_unix_ms)
    .bind(stage.ended_unix_ms)
    .bind(&stage.output_json)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn write_change(
    transaction: &mut Transaction<'static, Sqlite>,
    change: &Change,
    now_unix_ms: i64,
) -> Result<(), Error> {
    let (key, task) = (&change.key, &change.task);
    let failed_on = serde_json::to_string(&task.failed_on).expect("a list of texts");
    let last_worker = task.last_worker.as_ref().map(|worker| worker.as_str());
    sqlx::query(
        "UPDATE tasks SET state = $4, attempts = $5, failed_on = $6, last_worker = $7, \
         message = $8 WHERE run = $1 AND stage = $2 AND shard = $3",
    )
    .bind(key.run.as_str())
    .bind(key.stage.as_str())
    .bind(key.shard.as_str())
    .bind(task_state(&task.state).as_str_name())
    .bind(i64::from(task.attempts))
    .bind(failed_on)
    .bind(last_worker.unwrap_or_default())
    .bind(&change.message)
    .execute(&mut **transaction)
    .await?;
    sqlx::query("DELETE FROM leases WHERE run = $1 AND stage = $2 AND shard = $3")
        .bind(key.run.as_str())
        .bind(key.stage.as_str())
        .bind(key.shard.as_str())
        .execute(&mut **transaction)
        .await?;
    match &task.state {
        State::Leased(lease) => write_lease(transaction, change, lease, now_unix_ms).await,
        _ => end_attempt(transaction, change, now_unix_ms).await,
    }
}

async fn write_lease(
    transaction: &mut Transaction<'static, Sqlite>,
    change: &Change,
    lease: &Lease,
    now_unix_ms: i64,
) -> Result<(), Error> {
    let key = &change.key;
    for (rank, held) in lease.ranks.iter().enumerate() {
        sqlx::query(
            "INSERT INTO leases (run, stage, shard, rank, worker, attempt, generation, counter, \
             finished) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(key.run.as_str())
        .bind(key.stage.as_str())
        .bind(key.shard.as_str())
        .bind(number(rank as u64))
        .bind(held.worker.as_str())
        .bind(lease.attempt.as_str())
        .bind(number(lease.lease_epoch.generation))
        .bind(number(lease.lease_epoch.counter))
        .bind(i64::from(held.is_finished))
        .execute(&mut **transaction)
        .await?;
    }
    let holder = change.task.holder();
    sqlx::query(
        "INSERT INTO attempts (run, stage, shard, attempt, number, worker, started_unix_ms, \
         ended_unix_ms, outcome, message) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '', '') \
         ON CONFLICT (run, stage, shard, attempt) DO NOTHING",
    )
    .bind(key.run.as_str())
    .bind(key.stage.as_str())
    .bind(key.shard.as_str())
    .bind(lease.attempt.as_str())
    .bind(i64::from(change.task.attempts))
    .bind(holder.map(|worker| worker.0).unwrap_or_default())
    .bind(now_unix_ms)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Whatever attempt was going on has ended by this change.
async fn end_attempt(
    transaction: &mut Transaction<'static, Sqlite>,
    change: &Change,
    now_unix_ms: i64,
) -> Result<(), Error> {
    let key = &change.key;
    sqlx::query(
        "UPDATE attempts SET ended_unix_ms = $4, outcome = $5, message = $6 \
         WHERE run = $1 AND stage = $2 AND shard = $3 AND ended_unix_ms = 0",
    )
    .bind(key.run.as_str())
    .bind(key.stage.as_str())
    .bind(key.shard.as_str())
    .bind(now_unix_ms)
    .bind(task_state(&change.task.state).as_str_name())
    .bind(&change.message)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// As a signed number, which is what SQL has; counts stay far below the bound.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
