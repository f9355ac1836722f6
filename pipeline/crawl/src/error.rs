//! Why a crawl task ends without a result. A failure of one page or one picture is a
//! reject, not an error.

use capstan_plan::FailureKind;

/// Why a crawl task ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller cancelled the task, or dropped the receiver of the pairs.
    #[error("the task was cancelled")]
    Cancelled,
    /// No request can be made with a setting.
    #[error("crawl setting `{field}`: {problem}")]
    Setting {
        /// The field of the pipeline file or configuration.
        field: &'static str,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// The HTTP client could not be built.
    #[error("cannot build the http client")]
    Client(#[source] reqwest::Error),
    /// A decoding thread of this process panicked.
    #[error("a decoding thread panicked")]
    Thread(#[source] tokio::task::JoinError),
}

impl Error {
    /// How the scheduler treats the failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Cancelled => FailureKind::Transient,
            Self::Setting { .. } => FailureKind::BadInput,
            Self::Client(_) => FailureKind::WorkerFault,
            Self::Thread(_) => FailureKind::PoisonShard,
        }
    }
}
