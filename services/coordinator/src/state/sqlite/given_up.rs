//! Shards that were given up, one row each.

use capstan_plan::id::{RunId, ShardId, StageName};
use sqlx::{QueryBuilder, Row, SqlitePool};

use super::write::{Writing, by_stage, chunks, where_in};
use crate::machine::{Change, Key, State};
use crate::state::Error;
use crate::view::RunView;

/// Fills in the shards of a run that were given up.
pub(super) async fn read(readers: &SqlitePool, view: &mut RunView) -> Result<(), Error> {
    let rows = sqlx::query("SELECT stage, shard, said FROM given_up WHERE run = $1")
        .bind(view.run.as_str())
        .fetch_all(readers)
        .await?;
    for row in rows {
        let stage = StageName::from(row.try_get::<String, _>("stage")?);
        if let Some(stage) = view.stage_mut(&stage) {
            let shard = ShardId(row.try_get("shard")?);
            stage.quarantined.insert(shard, row.try_get("said")?);
        }
    }
    Ok(())
}

/// Adds shards. Known shards stay unchanged.
pub(super) async fn insert_new(
    writing: &mut Writing<'_>,
    run: &RunId,
    stage: &StageName,
    shards: &[(ShardId, String)],
) -> Result<(), Error> {
    let rows = shards.iter();
    let rows: Vec<Given<'_>> = rows
        .map(|(shard, reason)| (run, stage, shard, reason))
        .collect();
    insert(writing, &rows, "NOTHING").await
}

/// Adds the shards that these changes give up.
pub(super) async fn give_up(writing: &mut Writing<'_>, changes: &[&Change]) -> Result<(), Error> {
    let given_up = changes
        .iter()
        .filter(|change| change.task.state == State::Quarantined);
    let rows: Vec<Given<'_>> = given_up
        .map(|change| {
            let Key { run, stage, shard } = &*change.key;
            (run, stage, shard, &change.message)
        })
        .collect();
    insert(writing, &rows, "UPDATE SET said = excluded.said").await
}

/// Deletes shards that are retried.
pub(super) async fn retry(writing: &mut Writing<'_>, tasks: &[&Key]) -> Result<(), Error> {
    for of_stage in by_stage(tasks) {
        for chunk in chunks(&of_stage) {
            let mut query = QueryBuilder::<sqlx::Sqlite>::new("DELETE FROM given_up");
            where_in(&mut query, chunk);
            query.build().execute(&mut **writing).await?;
        }
    }
    Ok(())
}

/// A row: run, stage, shard and reason.
type Given<'a> = (&'a RunId, &'a StageName, &'a ShardId, &'a String);

/// - `known`: the action for a row that exists.
async fn insert(writing: &mut Writing<'_>, rows: &[Given<'_>], known: &str) -> Result<(), Error> {
    for chunk in chunks(rows) {
        let mut query =
            QueryBuilder::<sqlx::Sqlite>::new("INSERT INTO given_up (run, stage, shard, said) ");
        query.push_values(chunk, |mut row, (run, stage, shard, reason)| {
            row.push_bind(run.as_str())
                .push_bind(stage.as_str())
                .push_bind(shard.as_str())
                .push_bind(reason.as_str());
        });
        query
            .push(" ON CONFLICT (run, stage, shard) DO ")
            .push(known);
        query.build().execute(&mut **writing).await?;
    }
    Ok(())
}
