//! What the coordinator remembers over a restart: runs, stages, tasks, attempts and leases.
//!
//! The scheduler knows the trait [`Database`] alone. [`Sqlite`] is the database of a coordinator;
//! [`InMemory`] keeps the same promises without a disk, for simulations. `tests/conformance.rs` holds
//! both to one suite. The truth about data is in the object store: all that is here can be rebuilt
//! from it.

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
    /// A newer coordinator writes to the database.
    #[error("the database belongs to generation {newer}, this coordinator is generation {ours}")]
    Superseded {
        /// The generation of the coordinator that asked to write.
        ours: u64,
        /// The generation that the database belongs to.
        newer: u64,
    },
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

impl Error {
    /// Whether the same transaction may succeed later: the disk is full, the file system does not
    /// answer. A damaged file and a statement that the database refuses stay as they are.
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

/// A task to be added.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its key.
    pub key: Key,
    /// Who can take it.
    pub spec: Spec,
    /// `plan::task::Task` as JSON.
    pub task_json: String,
}

/// A change to be written. The order of changes matters.
#[derive(Debug)]
pub enum Op {
    /// A run that was submitted, or submitted again: the tasks and attempts of an earlier submission
    /// are deleted, and of the shards that were given up those stay that the view names. Its commits stay, and the store is asked again which of them are there.
    Submit(Box<RunView>),
    /// Tasks that wait for workers. Tasks that exist already stay as they are.
    Tasks(Vec<NewTask>),
    /// A task changed. One that is committed is deleted: its summary says all.
    Change(Change),
    /// Commits of a stage, beside those that are known: made by workers, adopted, or found in the
    /// store.
    Commits {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// By shard.
        commits: Vec<(ShardId, Summary)>,
    },
    /// Commits that the store has no more.
    Lost {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// Their shards.
        shards: Vec<ShardId>,
    },
    /// Shards of a stage that were given up before the run went on, beside those that are known. What
    /// is given up while it goes on is an [`Op::Change`].
    GivenUp {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
        /// Shards, and why.
        shards: Vec<(ShardId, String)>,
    },
    /// Every commit of this stage that was in the store is known.
    Listed {
        /// The run.
        run: RunId,
        /// The stage.
        stage: StageName,
    },
    /// A run that has ended is deleted: some ten thousand of its commits, and once none is left the run
    /// with its stages and tasks.
    Prune(RunId),
}

/// Shards of a stage from one to another, both included, in the order of their names.
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

/// A run whose view changed, and the stages that did.
#[derive(Debug)]
pub struct ViewChange {
    /// The present view.
    pub view: RunView,
    /// Stages to be written.
    pub stages: BTreeSet<StageName>,
}

/// A run that goes on, as it was last written.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The run.
    pub view: RunView,
    /// Its tasks that are not committed, in the order in which they were added.
    pub tasks: Vec<(Key, Task)>,
}

/// What a database knows of the store's generations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The newest generation; 0 before the first.
    pub generation: u64,
    /// The start that took it.
    pub start: String,
    /// The start that was about to take the next one.
    pub intended: String,
    /// The key of the tokens that grants carry; `None` before the first start.
    pub secret: Option<Digest>,
}

/// The database of a coordinator.
///
/// Everything that was appended survives the process. Reads see whole appends only.
#[async_trait]
pub trait Database: Debug + Send + Sync {
    /// What it knows of the store's generations; the default for a new database.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn known(&self) -> Result<Known, Error>;

    /// Stores it. Durable when this returns, also over a loss of power.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn know(&self, known: &Known) -> Result<(), Error>;

    /// Runs that go on, with their open tasks and leases, oldest submission first.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn load(&self) -> Result<Vec<Restored>, Error>;

    /// Writes `ops` in order and then the views, all or nothing.
    ///
    /// - `generation`: that of the caller. It is compared with the database's in the same
    ///   transaction, so a coordinator that was superseded writes nothing.
    ///
    /// # Errors
    /// [`Error::Superseded`], [`Error::Statement`]; nothing is written then.
    async fn append(
        &self,
        generation: u64,
        ops: &[Op],
        views: &[ViewChange],
        now_unix_ms: i64,
    ) -> Result<(), Error>;

    /// Runs without their stages, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn runs(&self, limit: u32) -> Result<Vec<RunView>, Error>;

    /// A run with its stages.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn run(&self, run: &RunId) -> Result<Option<RunView>, Error>;

    /// The JSON of these tasks; keys without a task are left out.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn task_jsons(&self, keys: &[&Key]) -> Result<HashMap<Key, String>, Error>;

    /// Whether [`Op::Listed`] was written of a stage since the run was submitted.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn is_listed(&self, run: &RunId, stage: &StageName) -> Result<bool, Error>;

    /// How many of these shards are committed.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn count_committed(&self, shards: Shards<'_>) -> Result<u64, Error>;

    /// Which of these shards are committed.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn committed(&self, shards: Shards<'_>) -> Result<BTreeSet<ShardId>, Error>;

    /// The commits of these shards.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::Damaged`].
    async fn commits(&self, shards: Shards<'_>) -> Result<BTreeMap<ShardId, Summary>, Error>;

    /// Runs that ended before this time, the oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Statement`].
    async fn ended_before(&self, unix_ms: i64, limit: u32) -> Result<Vec<RunId>, Error>;

    /// Closes it, with everything written, so that another process can open it.
    async fn close(&self);
}
