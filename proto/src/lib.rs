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

/// Largest message: a pipeline with its query list, a status with every quarantined shard.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Largest request without a pipeline. The largest one is the heartbeat of a worker with many slots.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
