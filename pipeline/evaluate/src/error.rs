//! Errors of an evaluation.

use std::path::PathBuf;

use capstan_model::{device, generate, preprocess, pretrained};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a model cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder contains no usable model.
    #[error("model folder {folder} cannot be evaluated", folder = folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
        /// The error.
        #[source]
        source: Box<pretrained::Error>,
    },
    /// The model lacks a part that the stage needs.
    #[error("the stage evaluates {asked}, but the model in {folder} has no {part}", folder = folder.display())]
    Lacks {
        /// The folder.
        folder: PathBuf,
        /// What the stage evaluates.
        asked: &'static str,
        /// The missing part.
        part: &'static str,
    },
    /// The device is not available on this machine.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The decoding settings do not fit the model.
    #[error("decoding cannot be used with this model")]
    Decoding(#[source] generate::Error),
    /// A fine-tuned captioner is given without settings for captioning.
    #[error("the stage has a captioner but no [captioning]")]
    NoCaptioning,
    /// A set that the stage evaluates is empty.
    #[error("the {set} set contains no picture")]
    EmptySet {
        /// The set.
        set: &'static str,
    },
    /// The blind test cannot permute one picture.
    #[error("the {set} set contains one picture; the blind test needs two")]
    Blind {
        /// The set.
        set: &'static str,
    },
    /// No picture of a set that the stage evaluates has a reference text.
    #[error(
        "none of the {pictures} pictures of the {set} set has a reference text: give a set with \
         reference texts"
    )]
    NoTexts {
        /// The set.
        set: &'static str,
        /// Number of its pictures.
        pictures: usize,
    },
    /// A picture of the zero-shot set has several texts.
    #[error(
        "pair {pair} of the zero-shot set has {texts} texts instead of one that names its class"
    )]
    Class {
        /// The picture.
        pair: PairId,
        /// Number of its texts.
        texts: usize,
    },
    /// Zero-shot classification has no template, or one without a place for the class.
    #[error("zero_shot.templates needs a template, and each must contain `{{}}` for the class")]
    Templates,
    /// A stored picture cannot be decoded.
    #[error("the stored picture of pair {pair} cannot be decoded")]
    Picture {
        /// The picture.
        pair: PairId,
        /// The error.
        #[source]
        source: preprocess::Error,
    },
    /// The caller cancelled the evaluation.
    #[error("the evaluation was cancelled")]
    Cancelled,
}

impl Error {
    /// How a task that met it is to be treated.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Model { source, .. } if source.is_fault_of_machine() => FailureKind::WorkerFault,
            Self::Device(_) => FailureKind::WorkerFault,
            Self::Picture { .. } => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            Self::Model { .. }
            | Self::Lacks { .. }
            | Self::Decoding(_)
            | Self::NoCaptioning
            | Self::EmptySet { .. }
            | Self::Blind { .. }
            | Self::NoTexts { .. }
            | Self::Class { .. }
            | Self::Templates => FailureKind::BadInput,
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
            Error::Model {
                folder: "model".into(),
                source: Box::new(pretrained::Error::Vocabulary {
                    folder: "model".into(),
                    tokens: 2,
                    rows: 1,
                }),
            },
            Error::Decoding(generate::Error::Setting("max_tokens must be at least 1")),
            Error::Picture {
                pair: PairId::new("picture", "page"),
                source: preprocess::Error::Bytes {
                    bytes: 1,
                    width: 2,
                    height: 2,
                },
            },
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
