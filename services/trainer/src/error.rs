//! Why a rank's attempt failed.

use std::net::SocketAddr;
use std::path::PathBuf;

use capstan_plan::FailureKind;

/// Why a rank's attempt failed. The message of a wrapped error is its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, or a file in it.
    #[error(transparent)]
    Dataset(#[from] capstan_dataset::Error),
    /// The training itself.
    #[error(transparent)]
    Train(#[from] capstan_train::TrainError),
    /// The ring could not be formed, or broke outside of a step.
    #[error(transparent)]
    Ring(#[from] capstan_collective::RingError),
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    State(#[from] capstan_train::StateError),
    /// The vocabulary.
    #[error(transparent)]
    Tokenizer(#[from] capstan_model::tokenizer::Error),
    /// A model folder.
    #[error(transparent)]
    Model(#[from] capstan_model::folder::Error),
    /// The device.
    #[error(transparent)]
    Device(#[from] capstan_model::device::Error),
    /// The coordinator could not bring the ranks together.
    #[error("the ranks did not meet: {0}")]
    Rendezvous(String),
    /// Somebody's certificate was refused: whose, by whom and why.
    #[error("{0}")]
    Certificate(String),
    /// The ring's listener cannot be bound.
    #[error("cannot listen for the ring on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of this machine.
    #[error("cannot access {path}", path = path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to train on.
    #[error("no samples: every text of the data was dropped, or the data is empty")]
    NoSamples,
    /// The stage gives neither sizes nor a model to go on from.
    #[error("the stage gives neither `architecture` nor `init`")]
    NoModel,
    /// The computing thread broke.
    #[error("the computation broke: {0}")]
    Broken(String),
    /// The attempt was cancelled.
    #[error("the attempt was cancelled")]
    Cancelled,
    /// A task for another role.
    #[error("a trainer does nothing but train")]
    Role,
}

impl Error {
    /// How the scheduler must treat it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Dataset(error) => error.kind(),
            Self::Train(error) => error.kind(),
            Self::Ring(_) | Self::Rendezvous(_) | Self::Cancelled => FailureKind::Transient,
            Self::State(capstan_train::StateError::File { .. }) => FailureKind::WorkerFault,
            Self::State(_)
            | Self::Tokenizer(_)
            | Self::Model(_)
            | Self::NoSamples
            | Self::NoModel => FailureKind::BadInput,
            Self::Device(_) | Self::Listen { .. } | Self::Local { .. } | Self::Certificate(_) => {
                FailureKind::WorkerFault
            }
            Self::Broken(_) => FailureKind::PoisonShard,
            Self::Role => FailureKind::Fatal,
        }
    }

    /// Whether the ring broke: then another rank knows why, and this one only noticed.
    pub(crate) fn is_of_ring(&self) -> bool {
        use capstan_train::TrainError;
        matches!(self, Self::Ring(_) | Self::Train(TrainError::Ring { .. }))
    }

    /// A file of this machine that cannot be used.
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
