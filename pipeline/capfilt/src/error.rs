//! Why a shard cannot be captioned or judged.

use std::path::PathBuf;

use capstan_model::{device, folder, generate, preprocess};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a shard cannot be captioned or judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no such model, or none that can be read.
    #[error("model folder {folder} is no {role}: {source}{cause}", folder = folder.display(), cause = cause(source))]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What it should be: `captioner` or `filter`.
        role: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<folder::Error>,
    },
    /// The model has no vocabulary beside it, or another one.
    #[error("model folder {folder} has no usable tokenizer: {source}", folder = folder.display())]
    Tokenizer {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: capstan_model::tokenizer::Error,
    },
    /// Network and vocabulary do not belong together.
    #[error("model folder {folder}: the vocabulary has {tokens} tokens, the network {rows}", folder = folder.display())]
    Vocabulary {
        /// The folder.
        folder: PathBuf,
        /// Tokens of `vocab.txt`.
        tokens: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// The device cannot be had here.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The decoding settings do not fit the model.
    #[error("decoding cannot be used with this captioner: {0}")]
    Decoding(#[source] generate::Error),
    /// A stored picture that cannot be decoded.
    #[error("the stored picture of pair {pair} cannot be read: {source}")]
    Picture {
        /// Whose picture.
        pair: PairId,
        /// What is wrong with it.
        #[source]
        source: preprocess::Error,
    },
    /// The filter gives a score that is no number.
    #[error("the filter's score of pair {pair} is no number: its weights are broken")]
    Score {
        /// Whose text.
        pair: PairId,
    },
    /// The caller asked to stop.
    #[error("the shard was cancelled")]
    Cancelled,
}

/// What the system said of a file that could not be read.
fn cause(error: &folder::Error) -> String {
    match error {
        folder::Error::Read { source, .. } => format!(": {source}"),
        _ => String::new(),
    }
}

impl Error {
    /// How a task that met it is to be treated.
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
