//! Why a model cannot be measured.

use std::path::PathBuf;

use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a model cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no model that can be read, or one of another kind.
    #[error("model folder {path}: {reason}", path = path.display())]
    Model {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model cannot do what the stage asks for.
    #[error("the stage asks for {what}, but {path} is a CLIP model: only BLIP can", path = path.display())]
    NotBlip {
        /// What was asked for.
        what: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// A set without a picture.
    #[error("the {set} set holds no picture")]
    EmptySet {
        /// Which set.
        set: &'static str,
    },
    /// A picture without a reference text.
    #[error("pair {pair} of the {set} set has no text to compare with")]
    NoText {
        /// Which set.
        set: &'static str,
        /// The picture.
        pair: PairId,
    },
    /// A picture of the zero-shot set with several texts: its class is not known.
    #[error("pair {pair} of the zero-shot set has {texts} texts; its one text names its class")]
    Class {
        /// The picture.
        pair: PairId,
        /// Texts found.
        texts: usize,
    },
    /// Zero-shot classification without a template, or with one that leaves the class out.
    #[error("the templates of zero_shot must each hold `{{}}`, and there must be one")]
    Templates,
    /// A set too small for the blind test.
    #[error("the {set} set holds one picture; the blind test needs two")]
    Blind {
        /// Which set.
        set: &'static str,
    },
    /// Captions asked for without a decoding that the model knows.
    #[error("decoding cannot be used: {reason}")]
    Decoding {
        /// What is wrong with it.
        reason: String,
    },
    /// A stored picture that cannot be decoded.
    #[error("the stored picture of pair {pair} cannot be read: {reason}")]
    Picture {
        /// The picture.
        pair: PairId,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("the evaluation was cancelled")]
    Cancelled,
}

impl Error {
    /// How a task that met it is to be treated.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Picture { .. } => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            _ => FailureKind::BadInput,
        }
    }
}
