//! What the coordinator remembers over a restart: runs, stages, tasks, attempts and leases, in
//! SQL that SQLite and PostgreSQL both take.
//!
//! One connection, so one writer: changes are written in the order in which they happened. One
//! process, too: a lock on `FILE.lock`, which the operating system releases with the process,
//! keeps a second coordinator out. The truth about data is in the store; all that is here can be
//! made anew from it.

mod fence;
mod lock;
mod output;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{SqlSafeStr, SqlitePool};

pub(crate) use fence::Known;
pub use read::Restored;
pub use write::{NewTask, Op, ViewChange};

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("database `{url}` cannot be opened (give sqlite:FILE)")]
    Open {
        /// As configured.
        url: String,
        /// What the driver says.
        source: sqlx::Error,
    },
    /// Another coordinator has it.
    #[error(
        "database {} is held by another coordinator: stop that one, or give each its own \
         [coordinator] database",
        file.display()
    )]
    Held {
        /// The database file.
        file: PathBuf,
    },
    /// The lock beside it cannot be made, or the file cannot be replaced.
    #[error(
        "database {} cannot be locked or replaced (give sqlite:FILE in an existing, writable folder)",
        file.display()
    )]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Its tables are of another version of the program.
    #[error(
        "database `{url}` has other tables than this program (`capstan state rebuild` creates it \
         again from the store)"
    )]
    Migrate {
        /// As configured.
        url: String,
        /// What differs.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("a statement of the database failed")]
    Statement(#[from] sqlx::Error),
    /// A row does not hold what the program wrote.
    #[error(
        "database: {table} of run {run} is damaged: {reason}; \
         `capstan state rebuild` makes it anew from the store"
    )]
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
    /// Held for as long as the database is open; an in-memory one needs none.
    lock: Option<Arc<File>>,
    /// The last place that was given to a task.
    position: Arc<AtomicI64>,
}

impl Database {
    /// Opens the database, makes it where it is missing, and brings its tables up to date. Until
    /// it is closed, or the process ends, nobody else can open it.
    ///
    /// # Errors
    /// [`Error::Held`], [`Error::Open`], [`Error::Migrate`], [`Error::File`].
    pub async fn open(url: &str) -> Result<Self, Error> {
        let lock = match file_of(url)? {
            Some(file) => Some(lock::take(&file)?),
            None => None,
        };
        Self::open_locked(url, lock).await
    }

    async fn open_locked(url: &str, lock: Option<File>) -> Result<Self, Error> {
        let options = options(url)?
            .create_if_missing(true)
            .locking_mode(SqliteLockingMode::Exclusive)
            .journal_mode(SqliteJournalMode::Wal)
            // What was answered stands, power loss or not. A beat is one transaction, so one
            // sync serves all that came meanwhile.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        // One connection that is never given up: an in-memory database lives as long as it does.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| open_error(url, source))?;
        migrator()
            .run(&pool)
            .await
            .map_err(|source| Error::Migrate {
                url: url.to_owned(),
                source,
            })?;
        let (last,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(position), 0) FROM tasks")
            .fetch_one(&pool)
            .await?;
        Ok(Self {
            pool,
            lock: lock.map(Arc::new),
            position: Arc::new(AtomicI64::new(last)),
        })
    }

    /// Makes a database in the place of this one: `fill` writes it, and only a whole one is put
    /// there. What stands there may be damaged, or missing.
    ///
    /// # Errors
    /// [`Error::Held`] where a coordinator has it; those of `fill`.
    pub(crate) async fn replace<E: From<Error>>(
        url: &str,
        fill: impl AsyncFnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(file) = file_of(url)? else {
            // In memory there is nothing to replace, and nothing that would last.
            let database = Self::open(url).await?;
            let filled = fill(&database).await;
            database.close().await;
            return filled;
        };
        let _lock = lock::take(&file)?;
        let new = beside(&file, ".new");
        remove(&new)?;
        let database = Self::open_locked(&format!("sqlite:{}", new.display()), None).await?;
        let filled = fill(&database).await;
        database.close().await;
        filled?;
        // The old one's log would be taken for the new one's.
        for log in ["-wal", "-shm"] {
            remove_one(&beside(&file, log))?;
        }
        std::fs::rename(&new, &file).map_err(|source| Error::File { file, source })?;
        Ok(())
    }

    /// Closes it, with everything written, and lets others open it.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "the lock of the database stays until the process ends");
        }
    }

    fn next_position(&self) -> i64 {
        self.position.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The files of `migrations/`. The `migrate!` macro would list them itself, but its crate compiles
/// SQLite a second time, for use inside the compiler.
fn migrator() -> Migrator {
    let files = [
        ("initial", include_str!("../migrations/0001_initial.sql")),
        ("device", include_str!("../migrations/0002_device.sql")),
    ];
    let migrations = files.into_iter().zip(1..).map(|((name, sql), version)| {
        let kind = MigrationType::Simple;
        Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

fn options(url: &str) -> Result<SqliteConnectOptions, Error> {
    SqliteConnectOptions::from_str(url).map_err(|source| open_error(url, source))
}

fn open_error(url: &str, source: sqlx::Error) -> Error {
    Error::Open {
        url: url.to_owned(),
        source,
    }
}

/// The file of a database; `None` for one in memory.
fn file_of(url: &str) -> Result<Option<PathBuf>, Error> {
    let is_in_memory = url.contains(":memory:") || url.contains("mode=memory");
    let options = options(url)?;
    Ok((!is_in_memory).then(|| options.get_filename().to_owned()))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a database file and its logs.
fn remove(file: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        remove_one(&beside(file, suffix))?;
    }
    Ok(())
}

fn remove_one(file: &Path) -> Result<(), Error> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
            file: file.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
