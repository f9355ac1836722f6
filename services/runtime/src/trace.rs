//! One trace per attempt across processes: W3C trace context in gRPC metadata, with its id in logs.
//!
//! The coordinator starts the trace of an attempt when it grants the lease, and sends it with the
//! answer. The worker logs under this trace and sends it with every call about the attempt. The log
//! lines of both sides carry the same `trace_id` beside `run, stage, shard, attempt`.
//!
//! ```text
//!  coordinator ── Lease answer, traceparent ──► worker: span attempt{run, stage, shard, attempt}
//!       ▲                                          │
//!       └── Complete | Fail | Release | JoinRing, traceparent
//! ```
//!
//! Source: W3C Recommendation "Trace Context", section 3.2 (traceparent).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tracing::Span;

/// The key in gRPC metadata.
const KEY: &str = "traceparent";

/// The trace, and the span in it, that a call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    trace_id: u128,
    span_id: u64,
}

impl Context {
    /// The trace of the thing that `parts` name. The same parts give the same trace in this process
    /// and another trace in every other process, so that this process does not have to store the
    /// traces of attempts.
    pub fn from_parts(parts: &[&str]) -> Self {
        let (high, low) = (hash(&(0u8, parts)), hash(&(1u8, parts)));
        Self {
            trace_id: (u128::from(high) << 64 | u128::from(low)).max(1),
            span_id: next_span(),
        }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: next_span(),
            ..self
        }
    }

    /// The trace id: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The context that a message carries, if there is one and it is valid.
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        Self::parse(metadata.get(KEY)?.to_str().ok()?)
    }

    /// The contexts that a message about several things carries, one for each in their order.
    pub fn all_from_metadata(metadata: &MetadataMap) -> Vec<Option<Self>> {
        let values = metadata.get_all(KEY).iter();
        values
            .map(|value| Self::parse(value.to_str().ok()?))
            .collect()
    }

    /// Appends the context to the metadata of a message.
    pub fn append_to(self, metadata: &mut MetadataMap) {
        let value: MetadataValue<Ascii> = self
            .to_string()
            .parse()
            .expect("hexadecimal digits and dashes are ASCII");
        metadata.append(KEY, value);
    }

    /// Parses a `traceparent`. A malformed one is ignored, as the recommendation requires.
    fn parse(text: &str) -> Option<Self> {
        let lower_hex = |part: &str| {
            let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            part.bytes().all(digit)
        };
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sized = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
        let all = [version, trace, span, flags];
        if !sized || !all.into_iter().all(lower_hex) || version == "ff" {
            return None;
        }
        // Only later versions may have further parts.
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }
}

/// Formats the context as a `traceparent` with the flag `sampled`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace_id, self.span_id)
    }
}

/// The attempt that log lines belong to.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The run.
    pub run: &'a str,
    /// The stage.
    pub stage: &'a str,
    /// The shard.
    pub shard: &'a str,
    /// The attempt, shared by the ranks of a gang.
    pub attempt: &'a str,
    /// The rank within the gang; 0 for every task but training.
    pub rank: u32,
}

impl Attempt<'_> {
    /// The trace of the attempt in this process.
    pub fn context(&self) -> Context {
        Context::from_parts(&[self.run, self.stage, self.shard, self.attempt])
    }

    /// The span of the attempt. Log lines within it carry all of these fields.
    pub fn span(&self, context: Context) -> Span {
        tracing::info_span!(
            "attempt",
            run = self.run,
            stage = self.stage,
            shard = self.shard,
            attempt = self.attempt,
            rank = self.rank,
            trace_id = context.trace_id(),
        )
    }
}

/// A hash with a key of this process, so that no two processes create the same id.
#[expect(
    clippy::disallowed_methods,
    reason = "two processes must not create the same id; no result depends on it"
)]
fn hash(value: &impl std::hash::Hash) -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    KEYS.get_or_init(RandomState::new).hash_one(value)
}

fn next_span() -> u64 {
    static SPANS: AtomicU64 = AtomicU64::new(0);
    hash(&SPANS.fetch_add(1, Ordering::Relaxed)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written() {
        let context = Context::parse(EXAMPLE).unwrap();
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.to_string(), EXAMPLE);
        let later = EXAMPLE.replace("00-0af", "cc-0af") + "-more";
        assert_eq!(Context::parse(&later), Some(context));
    }

    #[test]
    fn malformed_contexts_are_ignored() {
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(Context::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn equal_parts_have_one_trace_and_every_context_its_own_span() {
        let attempt = Context::from_parts(&["run", "stage", "shard", "1.7"]);
        let again = Context::from_parts(&["run", "stage", "shard", "1.7"]);
        assert_eq!(attempt.trace_id(), again.trace_id());
        assert_ne!(attempt.span_id, again.span_id);
        assert_ne!(
            attempt.trace_id(),
            Context::from_parts(&["run", "stage", "shard", "1.8"]).trace_id()
        );
        // The boundary between two parts matters.
        assert_ne!(
            Context::from_parts(&["a", "bc"]).trace_id(),
            Context::from_parts(&["ab", "c"]).trace_id()
        );
        assert_eq!(attempt.child().trace_id(), attempt.trace_id());
        assert_ne!(attempt.child(), attempt);
    }

    #[test]
    fn metadata_carries_one_context_for_each_thing() {
        let (first, second) = (Context::from_parts(&["a"]), Context::from_parts(&["b"]));
        let mut metadata = MetadataMap::new();
        assert_eq!(Context::from_metadata(&metadata), None);
        first.append_to(&mut metadata);
        second.append_to(&mut metadata);
        assert_eq!(Context::from_metadata(&metadata), Some(first));
        assert_eq!(
            Context::all_from_metadata(&metadata),
            [Some(first), Some(second)]
        );
    }
}
