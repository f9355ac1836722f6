//! The messages and services of `capstan.v1`, and their conversions to the types of `plan`.
//!
//! The definitions, with a comment on every message, are in `capstan/v1/*.proto`. This crate
//! depends on `plan` alone, whose types both ends of a connection share, so that each conversion
//! exists once. A field that holds JSON (a task, a pipeline) names the type of `plan` that it
//! serialises; the service that receives it deserialises it.

pub mod convert;

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("capstan.v1");
}

/// Largest message, in both directions. A task names every shard that it reads, a
/// status names every quarantined shard.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
