//! Why a model cannot be measured.

use std::path::PathBuf;

use capstan_model::{device, folder, generate, preprocess, tokenizer};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;

/// Why a model cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no model that can be read.
    #[error("model folder {folder} cannot be measured", folder = folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: folder::Error,
    },
    /// The model has no vocabulary beside it.
    #[error("model folder {folder} has no usable tokenizer", folder = folder.display())]
    Tokenizer {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: tokenizer::Error,
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
    /// The model cannot do what the stage asks for.
    #[error("the stage asks for {asked}, but the model in {folder} has no {part}", folder = folder.display())]
    Lacks {
        /// The folder.
        folder: PathBuf,
        /// What was asked for.
        asked: &'static str,
        /// What that needs.
        part: &'static str,
    },
    /// The device cannot be had here.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The decoding settings do not fit the model.
    #[error("decoding cannot be used with this model")]
    Decoding(#[source] generate::Error),
    /// A fine-tuned captioner is given, but nothing says how it should write.
    #[error("the stage names a captioner but has no [captioning] to measure it by")]
    NoCaptioning,
    /// A set that is asked for holds no picture.
    #[error("the {set} set holds no picture")]
    EmptySet {
        /// Which set.
        set: &'static str,
    },
    /// One picture cannot change places.
    #[error("the {set} set holds one picture; the blind test needs two")]
    Blind {
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
    /// A picture of the zero-shot set without exactly one text.
    #[error("pair {pair} of the zero-shot set has {texts} texts; its one text names its class")]
    Class {
        /// The picture.
        pair: PairId,
        /// Texts found.
        texts: usize,
    },
    /// Zero-shot classification without a template, or with one that leaves the class out.
    #[error("zero_shot.templates needs a template, and each must hold `{{}}` for the class")]
    Templates,
    /// A stored picture that cannot be decoded.
    #[error("the stored picture of pair {pair} cannot be decoded")]
    Picture {
        /// The picture.
        pair: PairId,
        /// What is wrong with it.
        #[source]
        source: preprocess::Error,
    },
    /// The caller asked to stop.
    #[error("the evaluation was cancelled")]
    Cancelled,
}

impl Error {
    /// How a task that met it is to be treated.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Model {
                source: folder::Error::Read { source, .. },
                ..
            } if source.kind() != std::io::ErrorKind::NotFound => FailureKind::WorkerFault,
            Self::Device(_) => FailureKind::WorkerFault,
            Self::Picture { .. } => FailureKind::PoisonShard,
            Self::Cancelled => FailureKind::Transient,
            Self::Model { .. }
            | Self::Tokenizer { .. }
            | Self::Vocabulary { .. }
            | Self::Lacks { .. }
            | Self::Decoding(_)
            | Self::NoCaptioning
            | Self::EmptySet { .. }
            | Self::Blind { .. }
            | Self::NoText { .. }
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
                source: folder::Error::Missing {
                    path: "weights".into(),
                    tensor: "cls_token".to_owned(),
                },
            },
            Error::Tokenizer {
                folder: "model".into(),
                source: tokenizer::Error::Special("[DEC]"),
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
