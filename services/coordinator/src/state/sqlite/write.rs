//! Writes: each call is one transaction. Rows of one kind are written in one statement.

use std::collections::BTreeMap;

use capstan_plan::id::{LeaseEpoch, RunId};
use sqlx::{Connection, QueryBuilder, SqliteConnection, Transaction};

use super::commits::{delete_commits, write_commits, write_listed};
use super::{Sqlite, fence, given_up, output};
use crate::convert::task_state;
use crate::machine::{Change, Key, Lease, Rank, State, What};
use crate::state::{Error, NewTask, Op, ViewChange};
use crate::view::{RunView, StageView};

/// Numbers of rows per statement, the largest first. Few, so that each statement is prepared once.
const ROWS: [usize; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

pub(super) type Writing<'c> = Transaction<'c, sqlx::Sqlite>;

impl Sqlite {
    pub(super) async fn write(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now_unix_ms: i64,
    ) -> Result<(), Error> {
        if ops.is_empty() && views.is_empty() {
            return Ok(());
        }
        let mut connection = self.writer.acquire().await?;
        let written = self
            .write_with(&mut connection, generation, (ops, views), now_unix_ms)
            .await;
        if written.is_err() {
            // If SQLite rolls back by itself, as it does when the disk is full, sqlx still counts the
            // transaction as open. Later transactions would be savepoints that nothing commits.
            connection.close_on_drop();
        }
        written
    }

    async fn write_with(
        &self,
        connection: &mut SqliteConnection,
        generation: u64,
        (ops, views): (&[Op], &[ViewChange]),
        now_unix_ms: i64,
    ) -> Result<(), Error> {
        let mut transaction = connection.begin().await?;
        fence::check(&mut transaction, generation).await?;
        let mut changes: Vec<&Change> = Vec::new();
        let mut all_commits: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Change(change) => changes.push(change),
                Op::Submit(view) => {
                    write_changes(&mut transaction, &changes, now_unix_ms).await?;
                    changes.clear();
                    submit(&mut transaction, view).await?;
                }
                // Changes of these tasks follow, so earlier changes need not be written first.
                Op::Tasks(tasks) => self.add_tasks(&mut transaction, tasks).await?,
                Op::Commits {
                    run,
                    stage,
                    commits,
                } => {
                    let of_stage = all_commits.entry((run, stage)).or_default();
                    of_stage.extend(commits);
                }
                Op::Lost { run, stage, shards } => {
                    delete_commits(&mut transaction, run, stage, shards).await?;
                }
                Op::GivenUp { run, stage, shards } => {
                    given_up::insert_new(&mut transaction, run, stage, shards).await?;
                }
                Op::Listed { run, stage } => write_listed(&mut transaction, run, stage).await?,
                Op::Prune(run) => {
                    write_changes(&mut transaction, &changes, now_unix_ms).await?;
                    changes.clear();
                    all_commits.retain(|(of, _), _| *of != run);
                    prune(&mut transaction, run).await?;
                }
            }
        }
        write_changes(&mut transaction, &changes, now_unix_ms).await?;
        for ((run, stage), commits) in all_commits {
            write_commits(&mut transaction, run, stage, &commits).await?;
        }
        for ViewChange { view, stages } in views {
            update_run(&mut transaction, view).await?;
            for (position, stage) in view.stages.iter().enumerate() {
                if stages.contains(&stage.stage) {
                    write_stage(&mut transaction, view, position, stage).await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn add_tasks(&self, writing: &mut Writing<'_>, tasks: &[NewTask]) -> Result<(), Error> {
        for chunk in chunks(tasks) {
            let mut query = QueryBuilder::<sqlx::Sqlite>::new(
                "INSERT INTO tasks (run, stage, shard, position, role, world_size, base, \
                 device, may_twin, task_json) ",
            );
            query.push_values(chunk, |mut row, task| {
                let base = task.spec.base.map(|base| base.to_string());
                let device = task.spec.device.as_ref();
                row.push_bind(task.key.run.as_str())
                    .push_bind(task.key.stage.as_str())
                    .push_bind(task.key.shard.as_str())
                    .push_bind(self.next_position())
                    .push_bind(task.spec.role.as_str())
                    .push_bind(number(task.spec.world_size as u64))
                    .push_bind(base.unwrap_or_default())
                    .push_bind(device.map_or("", |device| device.as_str()))
                    .push_bind(i64::from(task.spec.may_twin))
                    .push_bind(task.task_json.as_str());
            });
            query.push(" ON CONFLICT (run, stage, shard) DO NOTHING");
            query.build().execute(&mut **writing).await?;
        }
        Ok(())
    }
}

/// Statements that delete what a new submission creates again.
const RESUBMITTED: [&str; 6] = [
    "DELETE FROM stages WHERE run = $1",
    "DELETE FROM listed WHERE run = $1",
    "DELETE FROM tasks WHERE run = $1",
    "DELETE FROM task_states WHERE run = $1",
    "DELETE FROM attempts WHERE run = $1",
    "DELETE FROM given_up WHERE run = $1",
];

/// Maximum number of commits that one transaction deletes.
const PRUNED_COMMITS: i64 = 20_000;

/// Statements that delete a run.
const PRUNED: [&str; 7] = [
    RESUBMITTED[0],
    RESUBMITTED[1],
    RESUBMITTED[2],
    RESUBMITTED[3],
    RESUBMITTED[4],
    RESUBMITTED[5],
    "DELETE FROM runs WHERE run = $1",
];

/// Deletes commits of a run, and the run once none is left.
async fn prune(writing: &mut Writing<'_>, run: &RunId) -> Result<(), Error> {
    let deleted = sqlx::query(
        "DELETE FROM commits WHERE run = $1 AND (stage, shard) IN \
         (SELECT stage, shard FROM commits WHERE run = $1 ORDER BY stage, shard LIMIT $2)",
    )
    .bind(run.as_str())
    .bind(PRUNED_COMMITS)
    .execute(&mut **writing)
    .await?;
    match deleted.rows_affected() < PRUNED_COMMITS as u64 {
        true => delete(writing, run, &PRUNED).await,
        false => Ok(()),
    }
}

async fn delete(
    writing: &mut Writing<'_>,
    run: &RunId,
    statements: &[&'static str],
) -> Result<(), Error> {
    for statement in statements {
        sqlx::query(*statement)
            .bind(run.as_str())
            .execute(&mut **writing)
            .await?;
    }
    Ok(())
}

async fn submit(writing: &mut Writing<'_>, view: &RunView) -> Result<(), Error> {
    delete(writing, &view.run, &RESUBMITTED).await?;
    write_run(writing, view).await?;
    for (position, stage) in view.stages.iter().enumerate() {
        write_stage(writing, view, position, stage).await?;
        let shards = stage.quarantined.iter();
        let shards: Vec<_> = shards
            .map(|(shard, reason)| (shard.clone(), reason.clone()))
            .collect();
        given_up::insert_new(writing, &view.run, &stage.stage, &shards).await?;
    }
    Ok(())
}

async fn write_run(writing: &mut Writing<'_>, view: &RunView) -> Result<(), Error> {
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
    .bind(&*view.pipeline_json)
    .bind(view.seed.to_string())
    .bind(view.state.as_str_name())
    .bind(&view.reason)
    .bind(view.submitted_unix_ms)
    .bind(view.ended_unix_ms)
    .bind(number(view.leased))
    .execute(&mut **writing)
    .await?;
    Ok(())
}

/// Writes the mutable columns of a run. Its pipeline, which may be long, never changes.
async fn update_run(writing: &mut Writing<'_>, view: &RunView) -> Result<(), Error> {
    sqlx::query(
        "UPDATE runs SET state = $2, reason = $3, ended_unix_ms = $4, leased = $5 WHERE run = $1",
    )
    .bind(view.run.as_str())
    .bind(view.state.as_str_name())
    .bind(&view.reason)
    .bind(view.ended_unix_ms)
    .bind(number(view.leased))
    .execute(&mut **writing)
    .await?;
    Ok(())
}

async fn write_stage(
    writing: &mut Writing<'_>,
    view: &RunView,
    position: usize,
    stage: &StageView,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO stages (run, stage, position, kind, state, tasks, committed, adopted, \
         started_unix_ms, ended_unix_ms, output_json) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (run, stage) DO UPDATE SET state = excluded.state, tasks = excluded.tasks, \
         committed = excluded.committed, adopted = excluded.adopted, \
         started_unix_ms = excluded.started_unix_ms, \
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
    .bind(stage.started_unix_ms)
    .bind(stage.ended_unix_ms)
    .bind(output::write(stage.output.as_ref()))
    .execute(&mut **writing)
    .await?;
    Ok(())
}

/// Changes of tasks, grouped by what is written.
#[derive(Default)]
struct Sorted<'a> {
    began: Vec<(&'a Change, &'a Lease, usize, &'a Rank)>,
    finished: Vec<(&'a Change, LeaseEpoch)>,
    /// Committed tasks.
    committed: Vec<&'a Key>,
    /// Leases that ended without a commit.
    ended: Vec<(&'a Change, LeaseEpoch)>,
    /// Tasks that were given up and are retried.
    retried: Vec<&'a Key>,
    /// The last state of each task.
    states: BTreeMap<&'a Key, &'a Change>,
}

fn sorted<'a>(changes: &[&'a Change]) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for change in changes {
        match &change.what {
            What::Added => continue,
            What::Began(lease_epoch) => {
                let lease = change.task.held().and_then(|held| held.find(*lease_epoch));
                if let Some(lease) = lease {
                    let ranks = lease.ranks.iter().enumerate();
                    let rows = ranks.map(|(rank, held)| (*change, lease, rank, held));
                    sorted.began.extend(rows);
                }
                continue;
            }
            What::RankFinished(lease_epoch) => {
                sorted.finished.push((change, *lease_epoch));
                continue;
            }
            What::TakenBack(lease_epoch) => sorted.ended.push((change, *lease_epoch)),
            What::Moved(_) if change.task.state == State::Committed => {
                sorted.committed.push(&change.key);
                sorted.states.remove(&*change.key);
                continue;
            }
            What::Moved(ended) => {
                let ended = ended.iter().map(|lease_epoch| (*change, *lease_epoch));
                sorted.ended.extend(ended);
            }
            What::Retried => sorted.retried.push(&change.key),
        }
        sorted.states.insert(&change.key, change);
    }
    sorted
}

async fn write_changes(
    writing: &mut Writing<'_>,
    changes: &[&Change],
    now_unix_ms: i64,
) -> Result<(), Error> {
    let sorted = sorted(changes);
    write_leases(writing, &sorted.began, now_unix_ms).await?;
    for (change, lease_epoch) in &sorted.finished {
        write_finished(writing, change, *lease_epoch).await?;
    }
    for (change, lease_epoch) in &sorted.ended {
        end_attempt(writing, change, *lease_epoch, now_unix_ms).await?;
    }
    given_up::retry(writing, &sorted.retried).await?;
    let states: Vec<&Change> = sorted.states.into_values().collect();
    given_up::give_up(writing, &states).await?;
    write_states(writing, &states).await?;
    delete_committed(writing, &sorted.committed).await
}

async fn write_leases(
    writing: &mut Writing<'_>,
    began: &[(&Change, &Lease, usize, &Rank)],
    now_unix_ms: i64,
) -> Result<(), Error> {
    for chunk in chunks(began) {
        let mut query = QueryBuilder::<sqlx::Sqlite>::new(
            "INSERT INTO attempts (run, stage, shard, generation, counter, rank, number, worker, \
             finished, started_unix_ms, ended_unix_ms, outcome, message) ",
        );
        query.push_values(chunk, |mut row, (change, lease, rank, held)| {
            row.push_bind(change.key.run.as_str())
                .push_bind(change.key.stage.as_str())
                .push_bind(change.key.shard.as_str())
                .push_bind(number(lease.lease_epoch.generation))
                .push_bind(number(lease.lease_epoch.counter))
                .push_bind(number(*rank as u64))
                .push_bind(i64::from(lease.number))
                .push_bind(held.worker.as_str())
                .push_bind(i64::from(held.is_finished))
                .push_bind(now_unix_ms)
                .push_bind(0_i64)
                .push_bind("")
                .push_bind("");
        });
        query.build().execute(&mut **writing).await?;
    }
    Ok(())
}

/// Marks the finished ranks of a lease.
async fn write_finished(
    writing: &mut Writing<'_>,
    change: &Change,
    lease_epoch: LeaseEpoch,
) -> Result<(), Error> {
    let lease = change.task.held().and_then(|held| held.find(lease_epoch));
    let ranks = lease
        .iter()
        .flat_map(|lease| lease.ranks.iter().enumerate());
    for (rank, _) in ranks.filter(|(_, rank)| rank.is_finished) {
        sqlx::query(
            "UPDATE attempts SET finished = 1 WHERE run = $1 AND stage = $2 AND shard = $3 \
             AND generation = $4 AND counter = $5 AND rank = $6",
        )
        .bind(change.key.run.as_str())
        .bind(change.key.stage.as_str())
        .bind(change.key.shard.as_str())
        .bind(number(lease_epoch.generation))
        .bind(number(lease_epoch.counter))
        .bind(number(rank as u64))
        .execute(&mut **writing)
        .await?;
    }
    Ok(())
}

/// Deletes committed tasks with their attempts.
async fn delete_committed(writing: &mut Writing<'_>, tasks: &[&Key]) -> Result<(), Error> {
    for of_stage in by_stage(tasks) {
        for chunk in chunks(&of_stage) {
            for table in ["tasks", "task_states", "attempts"] {
                let mut query = QueryBuilder::<sqlx::Sqlite>::new("DELETE FROM ");
                query.push(table);
                where_in(&mut query, chunk);
                query.build().execute(&mut **writing).await?;
            }
        }
    }
    Ok(())
}

async fn end_attempt(
    writing: &mut Writing<'_>,
    change: &Change,
    lease_epoch: LeaseEpoch,
    now_unix_ms: i64,
) -> Result<(), Error> {
    let key = &change.key;
    sqlx::query(
        "UPDATE attempts SET ended_unix_ms = $6, outcome = $7, message = $8 WHERE run = $1 \
         AND stage = $2 AND shard = $3 AND generation = $4 AND counter = $5",
    )
    .bind(key.run.as_str())
    .bind(key.stage.as_str())
    .bind(key.shard.as_str())
    .bind(number(lease_epoch.generation))
    .bind(number(lease_epoch.counter))
    .bind(now_unix_ms)
    .bind(task_state(&change.task.state).as_str_name())
    .bind(&change.message)
    .execute(&mut **writing)
    .await?;
    Ok(())
}

async fn write_states(writing: &mut Writing<'_>, changes: &[&Change]) -> Result<(), Error> {
    for chunk in chunks(changes) {
        let mut query = QueryBuilder::<sqlx::Sqlite>::new(
            "INSERT INTO task_states (run, stage, shard, state, attempts, failed_on, \
             last_worker, message) ",
        );
        query.push_values(chunk, |mut row, change| {
            let (key, task) = (&change.key, &change.task);
            // The attempts show whether it is leased.
            let state = match &task.state {
                State::Leased(_) => &State::Ready,
                state => state,
            };
            let last_worker = task.last_worker.as_ref().map(|worker| worker.as_str());
            let failed_on = serde_json::to_string(&task.failed_on).expect("a list of texts");
            row.push_bind(key.run.as_str())
                .push_bind(key.stage.as_str())
                .push_bind(key.shard.as_str())
                .push_bind(task_state(state).as_str_name())
                .push_bind(i64::from(task.attempts))
                .push_bind(failed_on)
                .push_bind(last_worker.unwrap_or_default())
                .push_bind(change.message.as_str());
        });
        query.push(
            " ON CONFLICT (run, stage, shard) DO UPDATE SET state = excluded.state, \
             attempts = excluded.attempts, failed_on = excluded.failed_on, \
             last_worker = excluded.last_worker, message = excluded.message",
        );
        query.build().execute(&mut **writing).await?;
    }
    Ok(())
}

/// Groups keys by run and stage, so that one statement finds many of them with an index.
pub(super) fn by_stage<'a>(keys: &[&'a Key]) -> Vec<Vec<&'a Key>> {
    let mut by_stage: BTreeMap<_, Vec<&Key>> = BTreeMap::new();
    for key in keys {
        by_stage
            .entry((&key.run, &key.stage))
            .or_default()
            .push(key);
    }
    by_stage.into_values().collect()
}

/// Appends `WHERE` for these keys of one stage. A list of complete keys would scan the table.
pub(super) fn where_in(query: &mut QueryBuilder<sqlx::Sqlite>, keys: &[&Key]) {
    let Some(first) = keys.first() else { return };
    query.push(" WHERE run = ").push_bind(first.run.as_str());
    query.push(" AND stage = ").push_bind(first.stage.as_str());
    query.push(" AND shard IN (");
    let mut shards = query.separated(", ");
    for key in keys {
        shards.push_bind(key.shard.as_str());
    }
    query.push(")");
}

/// Splits rows into chunks of the sizes in [`ROWS`].
pub(super) fn chunks<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let size = ROWS.into_iter().find(|size| *size <= rest.len())?;
        let (chunk, after) = rest.split_at(size);
        rest = after;
        Some(chunk)
    })
}

/// A signed number for SQL. Counts stay far below the bound.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
