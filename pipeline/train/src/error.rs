//! What can stop a training.

use capstan_collective::RingError;
use capstan_model::{folder, weights};
use capstan_plan::FailureKind;

use crate::StateError;

/// Why a training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or the gradient is no number: the training has diverged.
    #[error(
        "step {step}: `{loss}` is no finite number; lower the learning rate or look at the data"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The loss (`itc`, `itm`, `lm`) or `gradient`.
        loss: &'static str,
    },
    /// The ring failed.
    #[error("step {step}: the ring failed")]
    Ring {
        /// The step.
        step: u64,
        /// What happened to it.
        #[source]
        source: RingError,
    },
    /// The settings of the stage contradict each other or the samples.
    #[error("{field}: {problem}")]
    Settings {
        /// The key in the pipeline file.
        field: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// A model folder cannot be read or written.
    #[error(transparent)]
    Model(#[from] folder::Error),
    /// A checkpoint cannot be read.
    #[error("cannot go on from the checkpoint")]
    State(#[from] StateError),
    /// A checkpoint is of another model, or of a training that is over.
    #[error("the checkpoint at step {step} is of another training: {detail}")]
    ForeignState {
        /// Its step.
        step: u64,
        /// What does not fit.
        detail: &'static str,
    },
    /// A checkpoint cannot be written.
    #[error("step {step}: cannot save a checkpoint")]
    Save {
        /// The step.
        step: u64,
        /// How the failure is to be treated.
        kind: FailureKind,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model cannot be measured.
    #[error("step {step}: the validation failed")]
    Validation {
        /// Steps that the model was trained for.
        step: u64,
        /// How the failure is to be treated.
        kind: FailureKind,
        /// What the validator said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A picture cannot be had.
    #[error("picture {picture}: cannot be loaded")]
    Picture {
        /// Its index among the pictures of the training.
        picture: usize,
        /// How the failure is to be treated.
        kind: FailureKind,
        /// What the store or the decoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no threads.
    #[error("cannot start {threads} threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the pool said.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// Somebody asked the training to stop.
    #[error("step {step}: cancelled")]
    Cancelled {
        /// The step that was not begun.
        step: u64,
    },
}

impl TrainError {
    /// How the scheduler must treat it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFinite { .. } | Self::Settings { .. } => FailureKind::BadInput,
            Self::Ring { source, .. } if !source.is_transient() => FailureKind::BadInput,
            Self::Ring { .. } | Self::Cancelled { .. } => FailureKind::Transient,
            Self::Model(
                folder::Error::Write { .. } | folder::Error::Weights(weights::Error::Write { .. }),
            ) => FailureKind::WorkerFault,
            Self::Model(_) => FailureKind::BadInput,
            Self::State(StateError::File { .. }) => FailureKind::WorkerFault,
            Self::State(_) | Self::ForeignState { .. } => FailureKind::BadInput,
            Self::Save { kind, .. }
            | Self::Validation { kind, .. }
            | Self::Picture { kind, .. } => *kind,
            Self::Threads { .. } => FailureKind::WorkerFault,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;
    use crate::SourceError;

    /// The error of a second global pool; the library has no constructor for its errors.
    fn second_global_pool() -> rayon::ThreadPoolBuildError {
        let build = || rayon::ThreadPoolBuilder::new().build_global();
        build().and_then(|()| build()).expect_err("a second pool")
    }

    #[test]
    fn no_variant_prints_its_source() {
        let io = || std::io::Error::other("disk full");
        let no_json = || serde_json::from_str::<u64>("step").expect_err("no number");
        let no_header = safetensors::SafeTensorError::InvalidHeaderLength;
        let errors: [&dyn StdError; 10] = [
            &TrainError::Ring {
                step: 1,
                source: RingError::Broken,
            },
            &TrainError::State(StateError::Index(no_json())),
            &TrainError::Save {
                step: 1,
                kind: FailureKind::Transient,
                source: Box::new(io()),
            },
            &TrainError::Validation {
                step: 1,
                kind: FailureKind::Transient,
                source: Box::new(io()),
            },
            &TrainError::Picture {
                picture: 1,
                kind: FailureKind::Transient,
                source: Box::new(io()),
            },
            &TrainError::Threads {
                threads: 2,
                source: second_global_pool(),
            },
            &StateError::Index(no_json()),
            &StateError::Tensors(no_header),
            &StateError::File {
                path: "index.json".into(),
                source: io(),
            },
            &SourceError {
                kind: FailureKind::Transient,
                source: Box::new(io()),
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
