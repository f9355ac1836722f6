//! The classes of gRPC statuses.

/// Whether the same call may succeed later.
pub(crate) fn is_transient(status: &tonic::Status) -> bool {
    use tonic::Code::{
        Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable, Unknown,
    };
    matches!(
        status.code(),
        Unavailable | DeadlineExceeded | Aborted | Cancelled | Unknown | ResourceExhausted
    )
}

/// Whether another live process uses the name of this worker.
pub(crate) fn is_name_taken(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::AlreadyExists
}

/// Whether the coordinator will reject this call of this worker every time.
pub(crate) fn is_permanent(status: &tonic::Status) -> bool {
    use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(
        status.code(),
        InvalidArgument | PermissionDenied | Unauthenticated | Unimplemented
    )
}
