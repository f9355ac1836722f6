//! Summaries of commits.

use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::commit::Summary;
use capstan_plan::id::{RunId, ShardId, StageName};
use capstan_proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use super::Sqlite;
use super::write::{Writing, chunks};
use crate::state::{Error, Shards};

/// Selects a range of shards. Every statement binds the same parameters.
const RANGE: &str = "run = $1 AND stage = $2 AND shard >= $3 AND shard <= $4";

impl Sqlite {
    pub(super) async fn read_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error> {
        let row = sqlx::query("SELECT 1 FROM listed WHERE run = $1 AND stage = $2")
            .bind(run.as_str())
            .bind(stage.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.is_some())
    }

    pub(super) async fn read_count(&self, shards: Shards<'_>) -> Result<u64, Error> {
        let rows = self.select("SELECT COUNT(*) AS count", shards).await?;
        let count = rows.first().map(|row| row.try_get::<i64, _>("count"));
        Ok(u64::try_from(count.transpose()?.unwrap_or(0)).unwrap_or(0))
    }

    pub(super) async fn read_committed(
        &self,
        shards: Shards<'_>,
    ) -> Result<BTreeSet<ShardId>, Error> {
        let rows = self.select("SELECT shard", shards).await?;
        let shards = rows.iter().map(|row| Ok(ShardId(row.try_get("shard")?)));
        shards.collect()
    }

    pub(super) async fn read_commits(
        &self,
        shards: Shards<'_>,
    ) -> Result<BTreeMap<ShardId, Summary>, Error> {
        let rows = self.select("SELECT shard, summary", shards).await?;
        let commits = rows.iter().map(|row| {
            let json: &str = row.try_get("summary")?;
            let commit = serde_json::from_str(json).map_err(|error| Error::Damaged {
                table: "commits",
                run: shards.run.to_string(),
                reason: error.to_string(),
            })?;
            Ok((ShardId(row.try_get("shard")?), commit))
        });
        commits.collect()
    }

    async fn select(&self, what: &str, shards: Shards<'_>) -> Result<Vec<SqliteRow>, Error> {
        let statement = format!("{what} FROM commits WHERE {RANGE}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(shards.run.as_str())
            .bind(shards.stage.as_str())
            .bind(shards.first.as_str())
            .bind(shards.last.as_str())
            .fetch_all(&self.readers)
            .await?;
        Ok(rows)
    }

    pub(super) async fn read_ended(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error> {
        let rows = sqlx::query(
            "SELECT run FROM runs WHERE state <> $1 AND ended_unix_ms < $2 \
             ORDER BY ended_unix_ms, run LIMIT $3",
        )
        .bind(v1::RunState::Running.as_str_name())
        .bind(unix_ms)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        let runs = rows
            .iter()
            .map(|row| Ok(row.try_get::<String, _>("run")?.into()));
        runs.collect()
    }
}

pub(super) async fn write_commits(
    writing: &mut Writing<'_>,
    run: &RunId,
    stage: &StageName,
    commits: &[&(ShardId, Summary)],
) -> Result<(), Error> {
    for chunk in chunks(commits) {
        let mut query =
            QueryBuilder::<sqlx::Sqlite>::new("INSERT INTO commits (run, stage, shard, summary) ");
        query.push_values(chunk, |mut row, (shard, commit)| {
            let summary = serde_json::to_string(commit).expect("a summary is plain data");
            row.push_bind(run.as_str())
                .push_bind(stage.as_str())
                .push_bind(shard.as_str())
                .push_bind(summary);
        });
        query.push(" ON CONFLICT (run, stage, shard) DO UPDATE SET summary = excluded.summary");
        query.build().execute(&mut **writing).await?;
    }
    Ok(())
}

pub(super) async fn write_listed(
    writing: &mut Writing<'_>,
    run: &RunId,
    stage: &StageName,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO listed (run, stage) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(run.as_str())
        .bind(stage.as_str())
        .execute(&mut **writing)
        .await?;
    Ok(())
}

pub(super) async fn delete_commits(
    writing: &mut Writing<'_>,
    run: &RunId,
    stage: &StageName,
    shards: &[ShardId],
) -> Result<(), Error> {
    for shard in shards {
        sqlx::query("DELETE FROM commits WHERE run = $1 AND stage = $2 AND shard = $3")
            .bind(run.as_str())
            .bind(stage.as_str())
            .bind(shard.as_str())
            .execute(&mut **writing)
            .await?;
    }
    Ok(())
}
