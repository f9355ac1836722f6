//! The trace of an attempt: starts with its lease, and continues in the requests about it.

use capstan_proto::v1;
use capstan_runtime::trace::{Attempt, Context};
use tonic::metadata::MetadataMap;
use tracing::Span;

/// The attempt of a lease.
fn attempt(lease: &v1::LeaseRef) -> Attempt<'_> {
    Attempt {
        run: &lease.run,
        stage: &lease.stage,
        shard: &lease.shard,
        attempt: &lease.attempt,
        rank: lease.rank,
    }
}

/// The span of a new lease.
pub(crate) fn begun(lease: &v1::LeaseRef) -> Span {
    let attempt = attempt(lease);
    attempt.span(attempt.context())
}

/// The span of a request about a lease: of the trace in its metadata, or else of the attempt's own.
pub(crate) fn request_span(metadata: &MetadataMap, lease: Option<&v1::LeaseRef>) -> Span {
    let Some(lease) = lease else {
        return Span::none();
    };
    let attempt = attempt(lease);
    let carried = Context::from_metadata(metadata).map(Context::child);
    attempt.span(carried.unwrap_or_else(|| attempt.context()))
}

/// Appends the trace of each assignment to the metadata of the response, in order.
pub(crate) fn append_to(metadata: &mut MetadataMap, assignments: &[v1::Assignment]) {
    let nothing = v1::LeaseRef::default();
    for assignment in assignments {
        // One entry per assignment, so that positions match.
        let lease = assignment.lease.as_ref().unwrap_or(&nothing);
        attempt(lease).context().append_to(metadata);
    }
}
