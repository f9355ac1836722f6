//! Conversions of this program's types to messages, and the classes of gRPC statuses.

use capstan_plan::FailureKind;
use capstan_plan::task::Role;
use capstan_proto::v1;

/// Whether the same call may succeed later.
pub(crate) fn is_transient(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable, Unknown};
    matches!(
        status.code(),
        Unavailable | DeadlineExceeded | Aborted | Cancelled | Unknown
    )
}

/// Whether the coordinator will reject this call of this worker every time.
pub(crate) fn is_permanent(status: &tonic::Status) -> bool {
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
