//! The generation that the database belongs to.

use capstan_plan::id::Digest;
use sqlx::{Row, Transaction};

use super::Sqlite;
use crate::state::{Error, Known};

/// Id of the only row.
const ROW: i64 = 1;

impl Sqlite {
    pub(super) async fn read_known(&self) -> Result<Known, Error> {
        let row = sqlx::query(
            "SELECT generation, start, intended, secret FROM coordinator WHERE id = $1",
        )
        .bind(ROW)
        .fetch_optional(&self.writer)
        .await?;
        let Some(row) = row else {
            return Ok(Known::default());
        };
        Ok(Known {
            generation: u64::try_from(row.try_get::<i64, _>("generation")?).unwrap_or(0),
            start: row.try_get("start")?,
            intended: row.try_get("intended")?,
            secret: Digest::from_hex(&row.try_get::<String, _>("secret")?),
        })
    }

    pub(super) async fn write_known(&self, known: &Known) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO coordinator (id, generation, start, intended, secret) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, \
             start = excluded.start, intended = excluded.intended, secret = excluded.secret",
        )
        .bind(ROW)
        .bind(i64::try_from(known.generation).unwrap_or(i64::MAX))
        .bind(&known.start)
        .bind(&known.intended)
        .bind(
            known
                .secret
                .map(|secret| secret.to_string())
                .unwrap_or_default(),
        )
        .execute(&self.writer)
        .await?;
        // Without the checkpoint, a power cut could lose this generation. The store would have a
        // newer generation than the database, which locks the database out.
        sqlx::query("PRAGMA wal_checkpoint(FULL)")
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// Rejects the transaction of a superseded coordinator.
///
/// # Errors
/// [`Error::Superseded`], [`Error::Statement`].
pub(super) async fn check(
    writing: &mut Transaction<'_, sqlx::Sqlite>,
    ours: u64,
) -> Result<(), Error> {
    let row = sqlx::query("SELECT generation FROM coordinator WHERE id = $1")
        .bind(ROW)
        .fetch_optional(&mut **writing)
        .await?;
    let newer = match row {
        Some(row) => u64::try_from(row.try_get::<i64, _>("generation")?).unwrap_or(0),
        None => 0,
    };
    match newer == ours {
        true => Ok(()),
        false => Err(Error::Superseded { ours, newer }),
    }
}
