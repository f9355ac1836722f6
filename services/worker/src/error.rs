//! Why a task of a worker failed.

use std::path::PathBuf;

use capstan_model::tokenizer;
use capstan_plan::FailureKind;
use capstan_plan::id::ModelDigest;

/// Why a task failed. The message of a wrapped error is its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, or a file in it.
    #[error(transparent)]
    Dataset(#[from] capstan_dataset::Error),
    /// A crawl.
    #[error(transparent)]
    Crawl(#[from] capstan_crawl::Error),
    /// An import.
    #[error(transparent)]
    Import(#[from] capstan_import::Error),
    /// Curation.
    #[error(transparent)]
    Curate(#[from] capstan_curate::Error),
    /// Captions and verdicts.
    #[error(transparent)]
    CapFilt(#[from] capstan_capfilt::Error),
    /// Figures.
    #[error(transparent)]
    Evaluate(#[from] capstan_evaluate::Error),
    /// A vocabulary.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A given model folder that is none.
    #[error(transparent)]
    Given(#[from] capstan_model::pretrained::Error),
    /// A given model folder that is not the one asked for.
    #[error(
        "model folder {folder} has digest {found}, the pipeline asks for {wanted}: it changed, or is another model",
        folder = folder.display()
    )]
    OtherModel {
        /// The folder.
        folder: PathBuf,
        /// Its digest.
        found: ModelDigest,
        /// The stage's `digest`.
        wanted: ModelDigest,
    },
    /// The device or its threads.
    #[error(transparent)]
    Device(#[from] capstan_model::device::Error),
    /// A file of this machine.
    #[error("{path}: {source}", path = path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A runtime for a crawl could not be started.
    #[error("the threads of a crawl could not be started: {0}")]
    Runtime(#[source] std::io::Error),
    /// The computing thread panicked.
    #[error("the computing thread panicked: {0}")]
    Broken(String),
    /// The task was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// A task for another role.
    #[error("a worker does not {0}")]
    Role(&'static str),
}

impl Error {
    /// How the scheduler must treat it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Dataset(error) => error.kind(),
            Self::Crawl(error) => error.kind(),
            Self::Import(error) => error.kind(),
            Self::Curate(error) => error.kind(),
            Self::CapFilt(error) => error.kind(),
            Self::Evaluate(error) => error.kind(),
            // A file that a folder lacks is lacking for every worker.
            Self::Tokenizer(tokenizer::Error::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                FailureKind::WorkerFault
            }
            Self::Tokenizer(_) | Self::Given(_) | Self::OtherModel { .. } => FailureKind::BadInput,
            Self::Device(_) | Self::Local { .. } | Self::Runtime(_) => FailureKind::WorkerFault,
            Self::Broken(_) => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            Self::Role(_) => FailureKind::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;

    fn of(kind: ErrorKind) -> Error {
        Error::Tokenizer(tokenizer::Error::Io {
            path: "scratch/vocab.txt".into(),
            source: io::Error::from(kind),
        })
    }

    #[test]
    fn a_full_disk_is_the_fault_of_the_worker_and_names_the_file() {
        let error = of(ErrorKind::StorageFull);
        assert_eq!(error.kind(), FailureKind::WorkerFault);
        let line = capstan_plan::failure::chain(&error);
        for part in ["scratch/vocab.txt", "no storage space"] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(of(ErrorKind::NotFound).kind(), FailureKind::BadInput);
    }
}
