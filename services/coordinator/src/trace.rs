//! The trace of an attempt: begun with its lease, found again in what a worker says of it.

use capstan_proto::v1;
use capstan_runtime::trace::{Attempt, Context};
use tonic::metadata::MetadataMap;
use tracing::Span;

/// The attempt that a lease is of.
fn attempt(lease: &v1::LeaseRef) -> Attempt<'_> {
    Attempt {
        run: &lease.run,
        stage: &lease.stage,
        shard: &lease.shard,
        attempt: &lease.attempt,
        rank: lease.rank,
    }
}

/// The span of a lease that is handed out.
pub(crate) fn begun(lease: &v1::LeaseRef) -> Span {
    let attempt = attempt(lease);
    attempt.span(attempt.context())
}

/// The span of a request about a lease: of the trace that it carries, or of the attempt's own.
pub(crate) fn of_request(metadata: &MetadataMap, lease: Option<&v1::LeaseRef>) -> Span {
    let Some(lease) = lease else {
        return Span::none();
    };
    let attempt = attempt(lease);
    let carried = Context::from_metadata(metadata).map(Context::child);
    attempt.span(carried.unwrap_or_else(|| attempt.context()))
}

/// Puts the trace of each assignment on the answer that carries them, in their order.
pub(crate) fn put_on(metadata: &mut MetadataMap, assignments: &[v1::Assignment]) {
    let nothing = v1::LeaseRef::default();
    for assignment in assignments {
        // One for each, so that the places agree.
        let lease = assignment.lease.as_ref().unwrap_or(&nothing);
        attempt(lease).context().append_to(metadata);
    }
}
