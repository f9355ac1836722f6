//! Why a shard cannot be captioned or judged.

use std::path::PathBuf;

use capstan_model::{device, folder, generate, preprocess};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a shard cannot be captioned or judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no such model, or the model cannot be read.
    #[error("model folder {folder} is not a usable {role}", folder = folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What the stage uses it as: `captioner` or `filter`.
        role: &'static str,
        /// The cause.
        #[source]
        source: Box<folder::Error>,
    },
    /// The vocabulary beside the model is missing or cannot be read.
    #[error("model folder {folder} has no usable tokenizer", folder = folder.display())]
    Tokenizer {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: capstan_model::tokenizer::Error,
    },
    /// The vocabulary is larger than the embedding table of the network.
    #[error("model folder {folder}: the vocabulary has {tokens} tokens, the network {rows}", folder = folder.display())]
    Vocabulary {
        /// The folder.
        folder: PathBuf,
        /// Tokens of `vocab.txt`.
        tokens: usize,
        /// Rows of the embedding table.
        rows: usize,
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
            Self::Model { source, .. } => match source.as_ref() {
                folder::Error::Read { source, .. }
                    if source.kind() != std::io::ErrorKind::NotFound =>
                {
                    FailureKind::WorkerFault
                }
                _ => FailureKind::BadInput,
            },
            Self::Device(_) => FailureKind::WorkerFault,
            Self::Picture { .. } => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            Self::Tokenizer { .. }
            | Self::Vocabulary { .. }
            | Self::Decoding(_)
            | Self::Score { .. } => FailureKind::BadInput,
        }
    }
}
