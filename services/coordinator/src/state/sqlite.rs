//! The database in SQLite. The SQL is also valid in PostgreSQL.
//!
//! A lock on `FILE.lock` keeps a second coordinator out. The operating system releases it when the
//! process ends.

mod commits;
mod fence;
mod given_up;
mod lock;
mod output;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use capstan_plan::commit::Summary;
use capstan_plan::id::{RunId, ShardId, StageName};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr, SqlitePool};

use super::{Database, Error, Known, Op, Restored, Shards, ViewChange};
use crate::machine::Key;
use crate::view::RunView;

/// Number of connections for reads.
const READERS: u32 = 4;

/// A database file of SQLite. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sqlite {
    /// One connection, so that changes are written in their order.
    writer: SqlitePool,
    /// Readers do not wait for the writer. An in-memory database has one connection for both.
    readers: SqlitePool,
    /// A connection that is never used. An in-memory database lives as long as one of its
    /// connections, and a statement that is dropped may close its own.
    keeper: Option<SqlitePool>,
    /// The lock of an open database file; `None` for an in-memory database.
    lock: Option<Arc<File>>,
    /// The last position of a task.
    position: Arc<AtomicI64>,
}

impl Sqlite {
    /// Opens the database, creates it if it is missing, and migrates its tables. Until it is closed or
    /// the process ends, no other process can open it.
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
            .journal_mode(SqliteJournalMode::Wal)
            // An answered request is durable, even after a loss of power. A beat is one transaction,
            // so one sync serves all requests since the last one.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let one = || {
            SqlitePoolOptions::new()
                .max_connections(1)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = one().connect_with(options.clone());
        let writer = writer.await.map_err(|source| open_error(url, source))?;
        let keeper = match file_of(url)? {
            Some(_) => None,
            None => {
                let keeper = one().connect_with(options.clone());
                Some(keeper.await.map_err(|source| open_error(url, source))?)
            }
        };
        migrator()
            .run(&writer)
            .await
            .map_err(|source| Error::Migrate {
                url: url.to_owned(),
                source,
            })?;
        let (last,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(position), 0) FROM tasks")
            .fetch_one(&writer)
            .await?;
        let readers = match file_of(url)? {
            Some(_) => SqlitePoolOptions::new()
                .max_connections(READERS)
                .connect_lazy_with(options.create_if_missing(false).read_only(true)),
            None => writer.clone(),
        };
        Ok(Self {
            writer,
            readers,
            keeper,
            lock: lock.map(Arc::new),
            position: Arc::new(AtomicI64::new(last)),
        })
    }

    /// Replaces the database. `fill` writes a new file, which replaces the old one only if it is
    /// complete. The old file may be damaged or missing.
    ///
    /// # Errors
    /// [`Error::Held`]: a coordinator has locked it; those of `fill`.
    pub(crate) async fn replace<E: From<Error>>(
        url: &str,
        fill: impl AsyncFnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(file) = file_of(url)? else {
            // An in-memory database has no file to replace.
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
        // SQLite would apply the log of the old file to the new one.
        for log in ["-wal", "-shm"] {
            remove_one(&beside(&file, log))?;
        }
        std::fs::rename(&new, &file).map_err(|source| Error::File { file, source })?;
        Ok(())
    }

    fn next_position(&self) -> i64 {
        self.position.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[async_trait]
impl Database for Sqlite {
    async fn known(&self) -> Result<Known, Error> {
        self.read_known().await
    }

    async fn know(&self, known: &Known) -> Result<(), Error> {
        self.write_known(known).await
    }

    async fn load(&self) -> Result<Vec<Restored>, Error> {
        self.read_running().await
    }

    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now_unix_ms: i64,
    ) -> Result<(), Error> {
        self.write(generation, ops, views, now_unix_ms).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error> {
        self.read_runs(limit).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error> {
        self.read_run(run).await
    }

    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, Error> {
        self.read_task_jsons(keys).await
    }

    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error> {
        self.read_listed(run, stage).await
    }

    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, Error> {
        self.read_count(shards).await
    }

    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, Error> {
        self.read_committed(shards).await
    }

    async fn commits(&self, shards: Shards<'_>) -> Result<BTreeMap<ShardId, Summary>, Error> {
        self.read_commits(shards).await
    }

    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error> {
        self.read_ended(unix_ms, limit).await
    }

    async fn close(&self) {
        // Closing the last connection empties the log.
        self.readers.close().await;
        self.writer.close().await;
        if let Some(keeper) = &self.keeper {
            keeper.close().await;
        }
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "the lock of the database is released only when the process ends");
        }
    }
}

/// The files of `migrations/`, listed by hand: the crate of the `migrate!` macro compiles SQLite a
/// second time, for use inside the compiler.
fn migrator() -> Migrator {
    let files = [
        ("initial", include_str!("../../migrations/0001_initial.sql")),
        ("device", include_str!("../../migrations/0002_device.sql")),
        ("indexes", include_str!("../../migrations/0003_indexes.sql")),
        ("secret", include_str!("../../migrations/0004_secret.sql")),
        ("commits", include_str!("../../migrations/0005_commits.sql")),
        (
            "given up",
            include_str!("../../migrations/0006_given_up.sql"),
        ),
        (
            "one tree",
            include_str!("../../migrations/0007_one_tree.sql"),
        ),
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

/// The file of a database; `None` for an in-memory one.
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

/// Whether a statement may succeed later, by SQLite's primary result code
/// (<https://sqlite.org/rescode.html>): no memory, read-only, I/O error, full disk, cannot open, busy,
/// locked.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code.is_some_and(|code| matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14))
        }
        _ => false,
    }
}
