//! The generated messages and services of `capstan.v1`, and nothing else.
//!
//! The definitions, with a comment on every message, are in `capstan/v1/*.proto`. This crate
//! depends on no other crate of the workspace. A field that holds JSON (a task, a pipeline) names
//! the type of `plan` that it serialises; the service that receives it deserialises it.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("capstan.v1");
}
