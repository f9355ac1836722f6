//! What can go wrong between us and the store, each in one line.

use capstan_plan::FailureKind;
use capstan_plan::commit::VersionRef;
use capstan_plan::id::{DatasetName, Digest, ModelDigest};

/// Short for results of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong. Every text is one line and names the store or the object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL of a store cannot be used.
    #[error(
        "store `{url}` cannot be opened: {reason}; give a folder, file://, memory:// or s3://bucket/prefix"
    )]
    Url {
        /// As given.
        url: String,
        /// Why.
        reason: String,
    },
    /// The store does not answer.
    #[error("store {url} is unreachable: {reason}")]
    Unreachable {
        /// The store.
        url: String,
        /// The innermost cause.
        reason: String,
        /// The whole chain.
        #[source]
        source: Cause,
    },
    /// No room left for what was to be written.
    #[error("store {url} is full: no space left to write {path}; free some and start again")]
    StoreFull {
        /// The store, or the local folder.
        url: String,
        /// What was to be written.
        path: String,
        /// The cause as the system gave it.
        #[source]
        source: Cause,
    },
    /// The store refuses us.
    #[error("store {url} refuses access to {path}: {reason}")]
    Refused {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// The innermost cause.
        reason: String,
        /// The whole chain.
        #[source]
        source: Cause,
    },
    /// An S3 store for which nothing names credentials.
    #[error(
        "store {url} has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         aws_access_key_id and aws_secret_access_key in [store.options]"
    )]
    NoCredentials {
        /// The store.
        url: String,
    },
    /// An object is not there.
    #[error("{path} is not in store {url}")]
    NotFound {
        /// The store.
        url: String,
        /// The object.
        path: String,
    },
    /// The store fails otherwise.
    #[error("store {url} failed on {path}: {reason}")]
    Store {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// The innermost cause.
        reason: String,
        /// The whole chain.
        #[source]
        source: Cause,
    },
    /// A create met others again and again.
    #[error("{path} in store {url} stayed contended over {tries} tries")]
    Contended {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A local file or folder (cache, model folder) fails.
    #[error("{path}: {source}")]
    Local {
        /// The file or folder.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A name that cannot stand in a path of the store.
    #[error("`{name}` cannot name a {what}: letters, digits, `-`, `_`, `.` only")]
    Name {
        /// What it should name.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// An object does not hold what its name or record promises.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The object.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Rows that cannot be written as they are.
    #[error("{what} cannot be written: {reason}")]
    Rows {
        /// Which rows.
        what: String,
        /// Why.
        reason: String,
    },
    /// An overlay does not speak of the rows of its base file.
    #[error("overlay {overlay} does not match base {base}: {reason}")]
    Misaligned {
        /// The overlay's digest.
        overlay: Digest,
        /// The base file's digest.
        base: Digest,
        /// The row and what is wrong with it.
        reason: String,
    },
    /// Texts that a filter kept were asked for, but no filter has spoken.
    #[error(
        "{version} has no verdicts in the shard of base {base}: `kept` texts need a filter stage before"
    )]
    NoVerdicts {
        /// The version as the task names it.
        version: VersionRef,
        /// The base file's digest.
        base: Digest,
    },
    /// A dataset without versions.
    #[error("dataset {dataset} has no version in store {url}")]
    NoDataset {
        /// The dataset.
        dataset: DatasetName,
        /// The store.
        url: String,
    },
    /// A model that is not in the store.
    #[error("model {model} is not complete in store {url}")]
    NoModel {
        /// The model.
        model: ModelDigest,
        /// The store.
        url: String,
    },
    /// A local folder that cannot become a model or a checkpoint.
    #[error("folder {path} cannot be stored: {reason}")]
    Folder {
        /// The folder, or the file in it.
        path: String,
        /// Why.
        reason: String,
    },
    /// A folder that cannot be exported to.
    #[error("cannot export to {path}: {reason}")]
    Target {
        /// The folder.
        path: String,
        /// What is in the way, and the mend.
        reason: String,
    },
    /// A sampler without samples, or batches without samples.
    #[error("cannot sample: {reason}")]
    Sampler {
        /// What is missing.
        reason: &'static str,
    },
}

impl Error {
    /// How a task that met it is to be treated.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unreachable { .. } | Self::Store { .. } | Self::Contended { .. } => {
                FailureKind::Transient
            }
            Self::StoreFull { .. }
            | Self::Refused { .. }
            | Self::NoCredentials { .. }
            | Self::Local { .. } => FailureKind::WorkerFault,
            Self::Url { .. }
            | Self::NotFound { .. }
            | Self::Name { .. }
            | Self::NoVerdicts { .. }
            | Self::NoDataset { .. }
            | Self::NoModel { .. }
            | Self::Folder { .. }
            | Self::Target { .. }
            | Self::Sampler { .. } => FailureKind::BadInput,
            Self::Damaged { .. } | Self::Rows { .. } | Self::Misaligned { .. } => {
                FailureKind::PoisonShard
            }
        }
    }

    /// A local file's failure; a full disk is told apart.
    pub(crate) fn local(path: &std::path::Path, source: std::io::Error) -> Self {
        let path = path.display().to_string();
        if is_full(&source) {
            return Self::StoreFull {
                url: "of this machine".to_owned(),
                path,
                source: Box::new(source),
            };
        }
        Self::Local { path, source }
    }

    pub(crate) fn damaged(path: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Damaged {
            path: path.into(),
            reason: one_line(&reason.to_string()),
        }
    }
}

/// Whether the disk, or the quota, is used up.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

/// White space of any kind to single blanks, so that an error stays one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
