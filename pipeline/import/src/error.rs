//! Why an import task ends without a result. One bad file or row is a reject, not an error.

use std::io::ErrorKind;
use std::path::PathBuf;

use capstan_plan::FailureKind;

use crate::roots::Roots;

/// Why an import task ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller cancelled the task, or dropped the receiver of the rows.
    #[error("the task was cancelled")]
    Cancelled,
    /// The source leads out of every folder that may be read.
    #[error(
        "source `{source_path}` leads to `{path}`, outside the import roots ({roots}): move it below \
         a root, or add its folder to `[import] roots` of the worker's configuration",
        path = path.display()
    )]
    Outside {
        /// The source as the pipeline file writes it.
        source_path: String,
        /// The path that it leads to, links resolved.
        path: PathBuf,
        /// The folders that may be read.
        roots: Roots,
    },
    /// The source is in none of the folders that may be read.
    #[error(
        "source `{source_path}` is in none of the import roots ({roots}): correct the path, or add \
         the folder that holds it to `[import] roots` of the worker's configuration"
    )]
    NoSource {
        /// The source as the pipeline file writes it.
        source_path: String,
        /// The folders that were searched.
        roots: Roots,
    },
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
    #[error("{path} is not {expected}: {problem}", path = path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// The format that the pipeline file states.
        expected: &'static str,
        /// The difference, with line or column where there is one.
        problem: String,
    },
    /// Decoding failed for a reason that is not in the picture.
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
            Self::Outside { .. } | Self::NoSource { .. } | Self::Format { .. } => {
                FailureKind::BadInput
            }
            Self::Read { source, .. } => match source.kind() {
                // `InvalidInput`: a link that leads out of the roots, or no regular file.
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput => {
                    FailureKind::BadInput
                }
                _ => FailureKind::WorkerFault,
            },
            Self::Decode(error) => error.kind(),
            Self::Thread(_) => FailureKind::PoisonShard,
        }
    }
}
