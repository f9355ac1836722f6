//! Which generation of the store this database belongs to.

use sqlx::Row;

use super::{Database, Error};

/// The one row.
const ROW: i64 = 1;

/// What the database knows of the store's generations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// The newest generation; 0 before the first.
    pub(crate) generation: u64,
    /// The start that took it.
    pub(crate) start: String,
    /// The start that was about to take the next one.
    pub(crate) intended: String,
}

impl Database {
    /// What it knows of the store's generations; nothing where it is new.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub(crate) async fn known(&self) -> Result<Known, Error> {
        let row = sqlx::query("SELECT generation, start, intended FROM coordinator WHERE id = $1")
            .bind(ROW)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else {
            return Ok(Known::default());
        };
        Ok(Known {
            generation: u64::try_from(row.try_get::<i64, _>("generation")?).unwrap_or(0),
            start: row.try_get("start")?,
            intended: row.try_get("intended")?,
        })
    }

    /// Remembers it. On the disk when this returns, whatever happens to the machine then.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub(crate) async fn know(&self, known: &Known) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO coordinator (id, generation, start, intended) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, \
             start = excluded.start, intended = excluded.intended",
        )
        .bind(ROW)
        .bind(i64::try_from(known.generation).unwrap_or(i64::MAX))
        .bind(&known.start)
        .bind(&known.intended)
        .execute(&self.pool)
        .await?;
        // Commits reach the disk with the next checkpoint of the log otherwise; a generation in
        // the store that this database forgot in a power cut would lock it out.
        sqlx::query("PRAGMA wal_checkpoint(FULL)")
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
