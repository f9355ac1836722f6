//! Why a task of this room ends without a result. What befalls one page or one
//! picture is no error but a reject.

use capstan_plan::FailureKind;

/// Why a crawl task ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller cancelled the task, or stopped taking pairs.
    #[error("the task was cancelled")]
    Cancelled,
    /// A setting that no request could be made with.
    #[error("crawl setting `{field}`: {problem}")]
    Setting {
        /// The field of the pipeline file or configuration.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The HTTP client could not be built.
    #[error("the http client could not be built")]
    Client(#[source] reqwest::Error),
    /// A worker thread of this process died.
    #[error("decoding thread died")]
    Thread(#[source] tokio::task::JoinError),
}

impl Error {
    /// What the scheduler makes of it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Cancelled => FailureKind::Transient,
            Self::Setting { .. } => FailureKind::BadInput,
            Self::Client(_) => FailureKind::WorkerFault,
            Self::Thread(_) => FailureKind::PoisonShard,
        }
    }
}
