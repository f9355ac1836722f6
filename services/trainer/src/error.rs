//! Errors of a rank's attempt.

use std::net::SocketAddr;
use std::path::PathBuf;

use capstan_model::{folder, tokenizer};
use capstan_plan::FailureKind;

/// Why a rank's attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, or an object in it, cannot be used.
    #[error(transparent)]
    Dataset(#[from] capstan_dataset::Error),
    /// The training failed.
    #[error(transparent)]
    Train(#[from] capstan_train::TrainError),
    /// The ring could not be formed, or an operation outside of a step failed.
    #[error(transparent)]
    Ring(#[from] capstan_collective::RingError),
    /// The validation set cannot be used.
    #[error("the validation set cannot be used")]
    Validation(#[source] capstan_evaluate::Error),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    State(#[from] capstan_train::StateError),
    /// The vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A model folder cannot be read or written.
    #[error(transparent)]
    Model(#[from] folder::Error),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] capstan_model::device::Error),
    /// The rendezvous through the coordinator failed.
    #[error("the rendezvous of the ranks failed: {0}")]
    Rendezvous(String),
    /// A certificate was rejected. The text says whose, by which side and why.
    #[error("{0}")]
    Certificate(String),
    /// The ring's listener cannot be bound.
    #[error("cannot listen for the ring on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A local file or folder cannot be read or written.
    #[error("cannot access {path}", path = path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The data contains no samples.
    #[error("no samples: the data is empty, or every text in it was dropped")]
    NoSamples,
    /// The stage has neither sizes nor an initial model.
    #[error("the stage has neither `architecture` nor `init`")]
    NoModel,
    /// The computing thread panicked.
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// The attempt was cancelled.
    #[error("the attempt was cancelled")]
    Cancelled,
    /// The task is for another role.
    #[error("a trainer only executes training tasks")]
    Role,
}

impl Error {
    /// How the scheduler must treat it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Dataset(error) => error.kind(),
            Self::Train(error) => error.kind(),
            Self::Validation(error) => error.kind(),
            Self::Ring(_) | Self::Rendezvous(_) | Self::Cancelled => FailureKind::Transient,
            Self::State(capstan_train::StateError::File { .. })
            | Self::Model(folder::Error::Write { .. }) => FailureKind::WorkerFault,
            // A file that a folder lacks is lacking for every worker.
            Self::Model(folder::Error::Read { source, .. })
            | Self::Tokenizer(tokenizer::Error::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                FailureKind::WorkerFault
            }
            Self::State(_)
            | Self::Tokenizer(_)
            | Self::Model(_)
            | Self::NoSamples
            | Self::NoModel => FailureKind::BadInput,
            Self::Device(_) | Self::Listen { .. } | Self::Local { .. } | Self::Certificate(_) => {
                FailureKind::WorkerFault
            }
            Self::Panicked(_) => FailureKind::PoisonShard,
            Self::Role => FailureKind::Fatal,
        }
    }

    /// Whether the ring failed. Then another rank knows the cause.
    pub(crate) fn is_ring_failure(&self) -> bool {
        use capstan_train::TrainError;
        matches!(self, Self::Ring(_) | Self::Train(TrainError::Ring { .. }))
    }

    /// The error of a local file or folder.
    pub(crate) fn local(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Local {
            path: path.into(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_full_disk_is_the_fault_of_the_worker_and_names_the_file() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let path = || PathBuf::from("scratch/model.safetensors");
        let (file, state) = (path(), path());
        let errors = [
            Error::Model(folder::Error::Write {
                path: file,
                source: full(),
            }),
            Error::Tokenizer(tokenizer::Error::Io {
                path: path(),
                source: full(),
            }),
            Error::State(capstan_train::StateError::File {
                path: state,
                source: full(),
            }),
            Error::local(path(), full()),
        ];
        for error in errors {
            assert_eq!(error.kind(), FailureKind::WorkerFault, "{error:?}");
            let line = capstan_plan::failure::chain(&error);
            for part in ["scratch/model.safetensors", "no storage space"] {
                assert!(line.contains(part), "{line}");
            }
        }
    }

    #[test]
    fn a_model_that_lacks_a_file_is_a_wrong_input() {
        let error = Error::Model(folder::Error::Read {
            path: "model/config.json".into(),
            source: std::io::ErrorKind::NotFound.into(),
        });
        assert_eq!(error.kind(), FailureKind::BadInput);
    }

    #[test]
    fn no_variant_prints_its_source() {
        let errors = [
            Error::Listen {
                address: ([127, 0, 0, 1], 7401).into(),
                source: std::io::Error::other("address in use"),
            },
            Error::local("metrics.jsonl", std::io::Error::other("disk full")),
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
