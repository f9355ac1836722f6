//! Errors of the coordinator, and their gRPC status codes.

use std::sync::Arc;

use capstan_plan::FailureKind;
use capstan_plan::expand;
use capstan_plan::failure;
use capstan_plan::id::{RunId, StageName, WorkerId};
use tonic::{Code, Status};

use crate::machine::Key;
use crate::state;

/// Why the coordinator cannot serve a request, or must stop. Every text is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database fails.
    #[error(transparent)]
    Database(Arc<state::Error>),
    /// The database cannot be written for now, so no new work is accepted.
    #[error("the coordinator accepts no new work until its database can be written again")]
    Halted(#[source] Arc<state::Error>),
    /// A limit of the coordinator is reached.
    #[error("the coordinator has {most} {what}, which is its limit: ask again later")]
    Busy {
        /// The limited resource.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// A limit of one connection is reached.
    #[error("a connection may have at most {most} {what}: ask again later")]
    Limit {
        /// The limited resource.
        what: &'static str,
        /// The limit.
        most: u64,
    },
    /// A part of the coordinator panicked.
    #[error("{part} panicked: {message}")]
    Panicked {
        /// The part.
        part: &'static str,
        /// The message of the panic.
        message: String,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] capstan_dataset::Error),
    /// The newest generation of the store was not taken with this database.
    #[error(
        "database `{database}` knows generation {known} of store {store}, whose newest is \
         {newest}: another coordinator has served it; `capstan state rebuild` creates the database \
         again from the store"
    )]
    Behind {
        /// The database, as configured.
        database: String,
        /// The newest generation in the database; 0 if it is new.
        known: u64,
        /// The store.
        store: String,
        /// The newest generation of the store; 0 if it has none.
        newest: u64,
    },
    /// A newer coordinator serves the store.
    #[error("generation {newer} of the store was taken: this coordinator, {ours}, has stopped")]
    Superseded {
        /// The generation of this coordinator.
        ours: u64,
        /// The generation of the newer one.
        newer: u64,
    },
    /// The record of a generation cannot be read.
    #[error("{path} is not a record of a generation")]
    Generation {
        /// The object.
        path: String,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// There is no such run.
    #[error("there is no run {run}")]
    UnknownRun {
        /// The requested id.
        run: RunId,
    },
    /// The pipeline cannot be used.
    #[error("{reason}")]
    Pipeline {
        /// What is wrong, with file and stage.
        reason: String,
    },
    /// The run id cannot name a folder.
    #[error("`{run}` cannot name a run: lower-case letters, digits and -, at most 100 of them")]
    RunId {
        /// The requested id.
        run: RunId,
    },
    /// The run with this id has another pipeline or seed.
    #[error("run {run} has another pipeline or seed: use another id, or the pipeline that it had")]
    OtherPipeline {
        /// The run.
        run: RunId,
    },
    /// A request is incomplete.
    #[error("the request {reason}")]
    Request {
        /// What is missing.
        reason: &'static str,
    },
    /// A run has no such stage.
    #[error("run {run} has no stage {stage}")]
    UnknownStage {
        /// The run.
        run: RunId,
        /// The requested stage.
        stage: StageName,
    },
    /// No shard of the run can be retried.
    #[error("run {run} has nothing to retry: {reason}")]
    NothingToRetry {
        /// The run.
        run: RunId,
        /// The cause.
        reason: &'static str,
    },
    /// The commits of a stage do not fit it.
    #[error(transparent)]
    Expand(#[from] expand::Error),
    /// The lease is no longer the caller's.
    #[error("lease of {key} is stale: it expired, or its run has ended")]
    Stale {
        /// The task.
        key: Key,
    },
    /// The token is not the token of the lease.
    #[error("lease of {key} was not granted to the caller: send the token that came with it")]
    Token {
        /// The task.
        key: Key,
    },
    /// Another live process uses the name of a worker.
    #[error(
        "another process uses the worker name `{worker}`: give each worker and trainer a `name` of \
         its own"
    )]
    NameTaken {
        /// The name.
        worker: WorkerId,
    },
    /// Another process has the name of the worker.
    #[error("the worker name `{worker}` belongs to another process")]
    OtherSession {
        /// The name.
        worker: WorkerId,
    },
    /// A task was reported as completed, but has no commit record.
    #[error("{key} has no commit record: commit to the store first")]
    NoCommit {
        /// The task.
        key: Key,
    },
    /// Not every rank of a gang joined.
    #[error("{joined} of {world_size} ranks of {key} joined within {seconds} s")]
    Ring {
        /// The task.
        key: Key,
        /// Number of ranks that joined.
        joined: usize,
        /// Number of ranks of the gang.
        world_size: usize,
        /// How long the ranks waited.
        seconds: u64,
    },
    /// The coordinator is shutting down.
    #[error("the coordinator is shutting down")]
    Closing,
    /// The listener or the server on it fails.
    #[error("the coordinator cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

impl Error {
    /// How the scheduler must treat a task that fails with this error.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Database(_)
            | Self::Halted(_)
            | Self::Busy { .. }
            | Self::Limit { .. }
            | Self::NameTaken { .. }
            | Self::Panicked { .. }
            | Self::Ring { .. }
            | Self::Closing
            | Self::Superseded { .. }
            | Self::Serve(_) => FailureKind::Transient,
            Self::Behind { .. } | Self::Generation { .. } => FailureKind::Fatal,
            Self::UnknownRun { .. }
            | Self::UnknownStage { .. }
            | Self::NothingToRetry { .. }
            | Self::Expand(_)
            | Self::Pipeline { .. }
            | Self::RunId { .. }
            | Self::OtherPipeline { .. }
            | Self::Request { .. }
            | Self::Stale { .. }
            | Self::Token { .. }
            | Self::OtherSession { .. }
            | Self::NoCommit { .. } => FailureKind::BadInput,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::UnknownRun { .. } | Self::UnknownStage { .. } => Code::NotFound,
            Self::Pipeline { .. } | Self::RunId { .. } | Self::Request { .. } => {
                Code::InvalidArgument
            }
            Self::OtherPipeline { .. } | Self::NameTaken { .. } => Code::AlreadyExists,
            Self::Stale { .. } | Self::NoCommit { .. } | Self::NothingToRetry { .. } => {
                Code::FailedPrecondition
            }
            Self::Token { .. } | Self::OtherSession { .. } => Code::PermissionDenied,
            Self::Expand(_) => Code::Internal,
            Self::Ring { .. } => Code::DeadlineExceeded,
            Self::Busy { .. } | Self::Limit { .. } => Code::ResourceExhausted,
            Self::Database(_)
            | Self::Halted(_)
            | Self::Panicked { .. }
            | Self::Closing
            | Self::Superseded { .. }
            | Self::Behind { .. }
            | Self::Generation { .. }
            | Self::Serve(_) => Code::Unavailable,
            Self::Store(error) if error.kind() == FailureKind::Transient => Code::Unavailable,
            Self::Store(_) => Code::Internal,
        }
    }
}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(error.code(), failure::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;

    #[test]
    fn no_variant_prints_its_source() {
        let not_a_url = tonic::transport::Endpoint::from_shared("http://[");
        let no_json = serde_json::from_str::<u64>("generation").expect_err("no number");
        let url = || "sqlite:capstan.db".to_owned();
        let errors: [&dyn StdError; 6] = [
            &Error::Generation {
                path: "generations/1.json".to_owned(),
                source: no_json,
            },
            &Error::Serve(not_a_url.expect_err("no URL")),
            &state::Error::Open {
                url: url(),
                source: sqlx::Error::PoolClosed,
            },
            &state::Error::File {
                file: "capstan.db".into(),
                source: std::io::Error::other("disk full"),
            },
            &state::Error::Migrate {
                url: url(),
                source: sqlx::migrate::MigrateError::VersionMissing(1),
            },
            &state::Error::Statement(sqlx::Error::PoolClosed),
        ];
        for error in errors {
            let source = error
                .source()
                .expect("the variant has a source")
                .to_string();
            assert!(!error.to_string().contains(&source), "{error}");
        }
    }
}
