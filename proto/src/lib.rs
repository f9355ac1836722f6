//! The messages and services of `capstan.v1`, and their conversions to the types of `plan`.
//!
//! The definitions, with a comment on every message, are in `capstan/v1/*.proto`. This room calls
//! `plan` alone, the vocabulary that both ends of a connection share, so that each conversion
//! exists once. What travels as JSON inside a message (a task, a pipeline) is named there by the
//! type of `plan` that it is, and read by the service that receives it.

pub mod convert;

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("capstan.v1");
}

/// Size of one message at most, in both directions. A task names every shard that it reads, a
/// status names every shard that was given up.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
