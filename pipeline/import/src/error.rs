//! Why an import task ends without a result. One bad file or row is a reject, not an error.

use std::io::ErrorKind;
use std::path::PathBuf;

use capstan_plan::FailureKind;

/// Why an import task ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller cancelled the task, or dropped the receiver of the rows.
    #[error("the task was cancelled")]
    Cancelled,
    /// A file or folder of the source cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The source does not have the stated format.
    #[error("{path} is not a {expected}: {problem}", path = path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// The format that the pipeline file states.
        expected: &'static str,
        /// What differs, with line or column where there is one.
        problem: String,
    },
    /// Decoding failed in a way that is not the picture's.
    #[error(transparent)]
    Decode(#[from] capstan_crawl::Error),
    /// The reader's thread panicked.
    #[error("the reader's thread panicked")]
    Thread(#[source] tokio::task::JoinError),
}

impl Error {
    /// How the scheduler treats the failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Cancelled => FailureKind::Transient,
            Self::Format { .. } => FailureKind::BadInput,
            Self::Read { source, .. } => match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => FailureKind::BadInput,
                _ => FailureKind::WorkerFault,
            },
            Self::Decode(error) => error.kind(),
            Self::Thread(_) => FailureKind::PoisonShard,
        }
    }
}
