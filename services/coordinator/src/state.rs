//! What the coordinator remembers over a restart: runs, stages, tasks, attempts and leases, in
//! SQL that SQLite and PostgreSQL both take.
//!
//! One connection, so one writer: changes are written in the order in which they happened. The
//! truth about data is in the store; all that is here can be made anew from it.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::str::FromStr;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

pub use read::Restored;
pub use write::NewTask;

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("database `{url}` cannot be opened: {source}; give sqlite:FILE")]
    Open {
        /// As configured.
        url: String,
        /// What the driver says.
        source: sqlx::Error,
    },
    /// Its tables are of another version of the program.
    #[error("database `{url}` has other tables than this program: {source}")]
    Migrate {
        /// As configured.
        url: String,
        /// What differs.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("database: {0}")]
    Statement(#[from] sqlx::Error),
    /// A row does not hold what the program wrote.
    #[error("database: {table} of run {run} is damaged: {reason}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The run.
        run: String,
        /// What is wrong.
        reason: String,
    },
}

/// The coordinator's memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: SqlitePool,
}

impl Database {
    /// Opens the database, makes it where it is missing, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Migrate`].
    pub async fn open(url: &str) -> Result<Self, Error> {
        let open = |source| Error::Open {
            url: url.to_owned(),
            source,
        };
        let options = SqliteConnectOptions::from_str(url)
            .map_err(open)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        // One connection that is never given up: an in-memory database lives as long as it does.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(open)?;
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| Error::Migrate {
                url: url.to_owned(),
                source,
            })?;
        Ok(Self { pool })
    }

    /// Closes it, with everything written.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
