//! Between messages and the types of `plan` that both ends of a connection use.
//!
//! Each conversion exists once, here: the coordinator, `lease` and the command line call it. What
//! only one end needs (a claim of the coordinator, say) stays at that end.

use capstan_plan::FailureKind;
use capstan_plan::commit::{OutputRef, VersionRef};
use capstan_plan::id::{Digest, LeaseEpoch, ModelDigest};
use capstan_plan::task::Role;

use crate::v1;
use crate::v1::stage_output::Output;

impl From<LeaseEpoch> for v1::LeaseEpoch {
    fn from(epoch: LeaseEpoch) -> Self {
        Self {
            generation: epoch.generation,
            counter: epoch.counter,
        }
    }
}

impl From<v1::LeaseEpoch> for LeaseEpoch {
    fn from(epoch: v1::LeaseEpoch) -> Self {
        Self {
            generation: epoch.generation,
            counter: epoch.counter,
        }
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Crawl => Self::Crawl,
            Role::Curate => Self::Curate,
            Role::Caption => Self::Caption,
            Role::Filter => Self::Filter,
            Role::Evaluate => Self::Evaluate,
            Role::Train => Self::Train,
        }
    }
}

/// The role of a message; `None` for a number that is no role of this version.
pub fn role(number: i32) -> Option<Role> {
    match v1::Role::try_from(number).ok()? {
        v1::Role::Unspecified => None,
        v1::Role::Crawl => Some(Role::Crawl),
        v1::Role::Curate => Some(Role::Curate),
        v1::Role::Caption => Some(Role::Caption),
        v1::Role::Filter => Some(Role::Filter),
        v1::Role::Evaluate => Some(Role::Evaluate),
        v1::Role::Train => Some(Role::Train),
    }
}

impl From<FailureKind> for v1::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Transient => Self::Transient,
            FailureKind::BadInput => Self::BadInput,
            FailureKind::PoisonShard => Self::PoisonShard,
            FailureKind::WorkerFault => Self::WorkerFault,
            FailureKind::Fatal => Self::Fatal,
        }
    }
}

/// The kind of failure of a message. A number that is no kind of this version is a failure that
/// another attempt may not meet.
pub fn failure_kind(number: i32) -> FailureKind {
    match v1::FailureKind::try_from(number) {
        Ok(v1::FailureKind::BadInput) => FailureKind::BadInput,
        Ok(v1::FailureKind::PoisonShard) => FailureKind::PoisonShard,
        Ok(v1::FailureKind::WorkerFault) => FailureKind::WorkerFault,
        Ok(v1::FailureKind::Fatal) => FailureKind::Fatal,
        Ok(v1::FailureKind::Transient | v1::FailureKind::Unspecified) | Err(_) => {
            FailureKind::Transient
        }
    }
}

impl From<&OutputRef> for v1::StageOutput {
    fn from(output: &OutputRef) -> Self {
        let output = match output {
            OutputRef::Dataset { version, parts } => Output::Dataset(v1::DatasetVersion {
                dataset: version.dataset.to_string(),
                number: version.number,
                parts: *parts,
            }),
            OutputRef::Model { digest } => Output::Model(v1::ModelFolder {
                digest: digest.to_string(),
            }),
            OutputRef::Figures => Output::Figures(v1::Figures {}),
        };
        Self {
            output: Some(output),
        }
    }
}

/// What a stage of a message produced; `None` where it is not done, or where a newer program
/// version names an output that this one does not know.
pub fn stage_output(message: Option<v1::StageOutput>) -> Option<OutputRef> {
    match message?.output? {
        Output::Dataset(version) => Some(OutputRef::Dataset {
            version: VersionRef {
                dataset: version.dataset.into(),
                number: version.number,
            },
            parts: version.parts,
        }),
        Output::Model(model) => {
            let digest = ModelDigest(Digest::from_hex(&model.digest)?);
            Some(OutputRef::Model { digest })
        }
        Output::Figures(v1::Figures {}) => Some(OutputRef::Figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_kinds_of_failure_come_back_as_they_went() {
        for sent in Role::ALL {
            assert_eq!(role(v1::Role::from(sent) as i32), Some(sent));
        }
        let kinds = [
            FailureKind::Transient,
            FailureKind::BadInput,
            FailureKind::PoisonShard,
            FailureKind::WorkerFault,
            FailureKind::Fatal,
        ];
        for sent in kinds {
            assert_eq!(failure_kind(v1::FailureKind::from(sent) as i32), sent);
        }
    }

    #[test]
    fn numbers_of_another_version_are_no_role_and_a_transient_failure() {
        assert_eq!(role(0), None);
        assert_eq!(role(99), None);
        assert_eq!(failure_kind(0), FailureKind::Transient);
        assert_eq!(failure_kind(99), FailureKind::Transient);
    }

    #[test]
    fn outputs_come_back_as_they_went() {
        let version = VersionRef {
            dataset: "web".into(),
            number: 3,
        };
        let digest = ModelDigest(Digest::of(b"a model"));
        let outputs = [
            OutputRef::Dataset { version, parts: 8 },
            OutputRef::Model { digest },
            OutputRef::Figures,
        ];
        for sent in outputs {
            assert_eq!(stage_output(Some((&sent).into())), Some(sent));
        }
    }

    #[test]
    fn an_output_that_cannot_be_read_is_none() {
        assert_eq!(stage_output(None), None);
        let empty = v1::StageOutput { output: None };
        assert_eq!(stage_output(Some(empty)), None);
        let output = Some(Output::Model(v1::ModelFolder {
            digest: "no digest".into(),
        }));
        assert_eq!(stage_output(Some(v1::StageOutput { output })), None);
    }
}
