//! Errors of stores, files and records. `Display` is one line and never repeats the source.

use capstan_plan::FailureKind;
use capstan_plan::commit::VersionRef;
use capstan_plan::id::{DatasetName, Digest, ModelDigest};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed source.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failure of a store or of its content. Every text is one line and names the store or object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL of a store cannot be used.
    #[error(
        "store `{url}` cannot be opened: {reason}; give a folder, file://, memory:// or s3://bucket/prefix"
    )]
    Url {
        /// As given.
        url: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The store does not answer.
    #[error("store {url} is unreachable")]
    Unreachable {
        /// The store.
        url: String,
        /// The innermost cause.
        #[source]
        source: Cause,
    },
    /// No credentials were given, and the machine provides none.
    #[error(
        "store {url} has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         aws_access_key_id and aws_secret_access_key in [store.options]"
    )]
    NoCredentials {
        /// The store.
        url: String,
    },
    /// No space is left for an object or file.
    #[error("store {url} is full: no space left to write {path}; free some and start again")]
    StoreFull {
        /// The store, or the local folder.
        url: String,
        /// The object or file.
        path: String,
        /// The innermost cause.
        #[source]
        source: Cause,
    },
    /// The store denies access.
    #[error("store {url} refuses access to {path}")]
    Refused {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// The innermost cause.
        #[source]
        source: Cause,
    },
    /// An object does not exist.
    #[error("{path} is not in store {url}")]
    NotFound {
        /// The store.
        url: String,
        /// The object.
        path: String,
    },
    /// The store fails in another way.
    #[error("store {url} failed on {path}")]
    Store {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// The innermost cause.
        #[source]
        source: Cause,
    },
    /// Every try of a create met another writer.
    #[error("{path} in store {url} stayed contended over {tries} tries")]
    Contended {
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// Number of tries.
        tries: u32,
    },
    /// A local file or folder (cache, model folder) cannot be read or written.
    #[error("{path} cannot be read or written")]
    Local {
        /// The file or folder.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A name that cannot be part of a path of the store.
    #[error("`{name}` cannot name a {what}: letters, digits, `-`, `_`, `.` only")]
    Name {
        /// What it should name.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// An object does not match its name or record.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The object.
        path: String,
        /// The mismatch.
        reason: String,
    },
    /// Rows that cannot be written.
    #[error("{what} cannot be written: {reason}")]
    Rows {
        /// Which rows.
        what: String,
        /// Why.
        reason: String,
    },
    /// A pixels file or an overlay is not aligned with its base file.
    #[error("file {file} does not match base {base}: {reason}")]
    Misaligned {
        /// Digest of the pixels file or overlay.
        file: Digest,
        /// Digest of the base file.
        base: Digest,
        /// The row, and how it differs.
        reason: String,
    },
    /// Texts that a filter kept were requested of a shard without verdicts.
    #[error(
        "{version} has no verdicts in the shard of base {base}: `kept` texts need a filter stage before"
    )]
    NoVerdicts {
        /// The version.
        version: VersionRef,
        /// The base file's digest.
        base: Digest,
    },
    /// A dataset has no versions.
    #[error("dataset {dataset} has no version in store {url}")]
    NoDataset {
        /// The dataset.
        dataset: DatasetName,
        /// The store.
        url: String,
    },
    /// A model is not complete in the store.
    #[error("model {model} is not complete in store {url}")]
    NoModel {
        /// The model.
        model: ModelDigest,
        /// The store.
        url: String,
    },
    /// A local folder cannot be stored as a model or checkpoint.
    #[error("folder {path} cannot be stored: {reason}")]
    Folder {
        /// The folder, or the file in it.
        path: String,
        /// Why.
        reason: String,
    },
    /// A folder cannot be exported to.
    #[error("cannot export to {path}: {reason}")]
    Target {
        /// The folder.
        path: String,
        /// The obstacle and the fix.
        reason: String,
    },
    /// A sampler or its batches have no samples.
    #[error("cannot sample: {reason}")]
    Sampler {
        /// The missing part.
        reason: &'static str,
    },
}

impl Error {
    /// How the scheduler treats a task that fails with this error.
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

    /// The failure of a local file; a full disk becomes [`Error::StoreFull`].
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

/// Whether the disk or the quota is exhausted.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

/// Replaces white space by single blanks, so that an error stays one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The innermost cause of a failure, as one line. It stands for a chain of sources that repeat
/// each other, which only [`Debug`](std::fmt::Debug) shows.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub(crate) struct Innermost<E> {
    pub(crate) line: String,
    /// The whole chain.
    pub(crate) error: E,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    fn source() -> Cause {
        Box::new(io::Error::other("the cause"))
    }

    #[test]
    fn no_variant_prints_its_source() {
        let (url, path) = ("s3://bucket".to_owned(), "data/x".to_owned());
        let errors = [
            Error::Unreachable {
                url: url.clone(),
                source: source(),
            },
            Error::StoreFull {
                url: url.clone(),
                path: path.clone(),
                source: source(),
            },
            Error::Refused {
                url: url.clone(),
                path: path.clone(),
                source: source(),
            },
            Error::Store {
                url,
                path,
                source: source(),
            },
            Error::local("x".as_ref(), io::Error::other("the cause")),
        ];
        for error in errors {
            let cause = error.source().expect("it has a source").to_string();
            assert_eq!(cause, "the cause");
            assert!(!error.to_string().contains(&cause), "{error}");
        }
    }
}
