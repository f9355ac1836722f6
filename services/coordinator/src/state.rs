//! The database of the coordinator: runs, stages, tasks, attempts and leases, over restarts.
//!
//! The scheduler knows only the trait [`Database`]. [`Sqlite`] is the database of a coordinator.
//! [`InMemory`] gives the same guarantees without a disk, for simulations. `state/tests.rs` runs one
//! suite on both. The object store is authoritative for data: everything here can be rebuilt from it.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use capstan_plan::commit::Summary;
use capstan_plan::id::{Digest, RunId, ShardId, StageName};

use crate::machine::{Change, Key, Spec, Task};
use crate::view::RunView;

pub use memory::InMemory;
pub use sqlite::Sqlite;

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("database `{url}` cannot be opened (give sqlite:FILE)")]
    Open {
        /// As configured.
        url: String,
        /// The error of the driver.
        source: sqlx::Error,
    },
    /// Another coordinator has locked it.
    #[error(
        "database {} is held by another coordinator: stop that one, or give each its own \
         [coordinator] database",
        file.display()
    )]
    Held {
        /// The database file.
        file: PathBuf,
    },
    /// The lock file cannot be created, or the database file cannot be replaced.
    #[error(
        "database {} cannot be locked or replaced (give sqlite:FILE in an existing, writable folder)",
        file.display()
    )]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Its tables belong to another version of the program.
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
    /// A newer coordinator writes to the database.
    #[error("the database belongs to generation {newer}, this coordinator is generation {ours}")]
    Superseded {
        /// The generation of the coordinator that asked to write.
        ours: u64,
        /// The generation that the database belongs to.
        newer: u64,
    },
    /// A row has content that the program does not write.
    #[error(
        "database: {table} of run {run} is damaged: {reason}; \
         `capstan state rebuild` creates it again from the store"
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

impl Error {
    /// Whether the same transaction may succeed later: the disk is full, or the file system does not
    /// answer. A damaged file and a rejected statement are permanent.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Statement(error) => sqlite::is_transient(error),
            Self::Open { .. }
            | Self::Held { .. }
            | Self::File { .. }
            | Self::Migrate { .. }
            | Self::Superseded { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

/// A new task.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its key.
    pub key: Key,
    /// Its requirements.
    pub spec: Spec,
    /// `plan::task::Task` as JSON.
    pub task_json: String,
}

/// A change to write. The order of changes matters.
#[derive(Debug)]
pub enum Op {
    /// A run was submitted, or submitted again. Tasks and attempts of an earlier submission are
    /// deleted, and of the shards that were given up, those that the view does not name. Commits
    /// stay, but no stage counts as listed, so that they are compared with the store again.
    Submit(Box<RunView>),
    /// Tasks that are ready. Tasks that exist stay unchanged.
    Tasks(Vec<NewTask>),
    /// A task changed. A committed task is deleted; its summary is in `Commits`.
    Change(Change),
    /// New commits of a stage: made by workers, adopted, or found in the store.
    Commits {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// The commits by shard.
        commits: Vec<(ShardId, Summary)>,
    },
    /// Commits that the store no longer has.
    Lost {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// Their shards.
        shards: Vec<ShardId>,
    },
    /// Shards of a stage that were given up before the run was resumed. Known shards stay unchanged.
    /// A shard that is given up while the run runs is an [`Op::Change`].
    GivenUp {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// The shards, with the reason of each.
        shards: Vec<(ShardId, String)>,
    },
    /// The database has every commit of this stage that the store had.
    Listed {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
    },
    /// Deletes a part of a run that has ended: at most some ten thousand commits, and once none is
    /// left, the run with its stages and tasks.
    Prune(RunId),
}

/// The shards of a stage in a range of names, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct Shards<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The stage.
    pub stage: &'a StageName,
    /// The first shard.
    pub first: &'a ShardId,
    /// The last shard.
    pub last: &'a ShardId,
}

/// A run whose view changed, and its changed stages.
#[derive(Debug)]
pub struct ViewChange {
    /// The new view.
    pub view: RunView,
    /// The stages to write.
    pub stages: BTreeSet<StageName>,
}

/// A running run, as it was last written.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The run.
    pub view: RunView,
    /// Its tasks that are not committed, in the order in which they were added.
    pub tasks: Vec<(Key, Task)>,
}

/// The generations of the store that a database knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The newest generation; 0 before the first.
    pub generation: u64,
    /// The start that took it.
    pub start: String,
    /// The start that intended to take the next one.
    pub intended: String,
    /// The key of the tokens of leases; `None` before the first start.
    pub secret: Option<Digest>,
}

/// The database of a coordinator.
///
/// Appended changes survive the process. Reads see whole appends only.
#[async_trait]
pub trait Database: Debug + Send + Sync {
    /// The generations that it knows; the default for a new database.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn known(&self) -> Result<Known, Error>;

    /// Stores the generations. Durable when this returns, even after a loss of power.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn know(&self, known: &Known) -> Result<(), Error>;

    /// The running runs with their open tasks and leases, oldest submission first.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn load(&self) -> Result<Vec<Restored>, Error>;

    /// Writes `ops` in order and then the views, in one transaction.
    ///
    /// - `generation`: of the caller. It is compared with the database's in the same transaction, so
    ///   a superseded coordinator writes nothing.
    ///
    /// # Errors
    /// [`Error::Superseded`], [`Error::Statement`]: nothing is written.
    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now_unix_ms: i64,
    ) -> Result<(), Error>;

    /// At most `limit` runs without their stages, newest first.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error>;

    /// A run with its stages.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error>;

    /// The JSON of these tasks. Keys without a task are omitted.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, Error>;

    /// Whether [`Op::Listed`] was written for a stage since the run was submitted.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error>;

    /// Number of these shards that are committed.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, Error>;

    /// The shards of these that are committed.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, Error>;

    /// The commits of these shards.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn commits(&self, shards: Shards<'_>) -> Result<BTreeMap<ShardId, Summary>, Error>;

    /// At most `limit` runs that ended before this time, oldest first.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error>;

    /// Writes everything to the file and closes it, so that another process can open it.
    async fn close(&self);
}
