//! What the status of an answer means.

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
