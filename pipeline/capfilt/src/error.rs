//! Why a shard cannot be captioned or judged.

use std::path::PathBuf;

use capstan_model::{device, generate, preprocess, pretrained};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a shard cannot be captioned or judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no such model, or something of it cannot be read.
    #[error("model folder {folder} is not a usable {role}", folder = folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What the stage uses it as: `captioner` or `filter`.
        role: &'static str,
        /// The cause.
        #[source]
        source: Box<pretrained::Error>,
    },
    /// The device is not available on this machine.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The decoding settings do not fit the model.
    #[error("the decoding settings cannot be used with this captioner")]
    Decoding(#[source] generate::Error),
    /// A stored picture cannot be decoded.
    #[error("the stored picture of pair {pair} cannot be decoded")]
    Picture {
        /// The pair.
        pair: PairId,
        /// The cause.
        #[source]
        source: preprocess::Error,
    },
    /// The filter computes a score that is not finite.
    #[error("the filter's score of pair {pair} is not a finite number: its weights are damaged")]
    Score {
        /// The pair of the text.
        pair: PairId,
    },
    /// The caller stopped the work.
    #[error("the shard was cancelled")]
    Cancelled,
}

impl Error {
    /// How the scheduler treats the failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Model { source, .. } if source.is_fault_of_machine() => FailureKind::WorkerFault,
            Self::Device(_) => FailureKind::WorkerFault,
            Self::Picture { .. } => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            Self::Model { .. } | Self::Decoding(_) | Self::Score { .. } => FailureKind::BadInput,
        }
    }
}
