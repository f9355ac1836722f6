//! Ours to messages, and what a status means.

use capstan_plan::FailureKind;
use capstan_plan::task::Role;
use capstan_proto::v1;

/// Whether the same question may be answered later.
pub(crate) fn is_transient(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable, Unknown};
    matches!(
        status.code(),
        Unavailable | DeadlineExceeded | Aborted | Cancelled | Unknown
    )
}

/// Whether the coordinator will never answer this worker otherwise.
pub(crate) fn is_lasting(status: &tonic::Status) -> bool {
    use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(
        status.code(),
        InvalidArgument | PermissionDenied | Unauthenticated | Unimplemented
    )
}

pub(crate) fn role(role: Role) -> v1::Role {
    match role {
        Role::Crawl => v1::Role::Crawl,
        Role::Curate => v1::Role::Curate,
        Role::Caption => v1::Role::Caption,
        Role::Filter => v1::Role::Filter,
        Role::Evaluate => v1::Role::Evaluate,
        Role::Train => v1::Role::Train,
    }
}

pub(crate) fn failure_kind(kind: FailureKind) -> v1::FailureKind {
    match kind {
        FailureKind::Transient => v1::FailureKind::Transient,
        FailureKind::BadInput => v1::FailureKind::BadInput,
        FailureKind::PoisonShard => v1::FailureKind::PoisonShard,
        FailureKind::WorkerFault => v1::FailureKind::WorkerFault,
        FailureKind::Fatal => v1::FailureKind::Fatal,
    }
}
