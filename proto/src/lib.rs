//! The generated messages and services of `capstan.v1`, and nothing else.
//!
//! The definitions, with a comment on every message, are in `capstan/v1/*.proto`. This room
//! depends on none of ours: what travels as JSON inside a message (a task, a pipeline) is named
//! there by the type of `plan` that it is, and read by the service that receives it.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("capstan.v1");
}
