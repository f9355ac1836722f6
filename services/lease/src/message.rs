//! The classes of gRPC statuses.

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
