//! The roles as separate processes over one store end as one process does, on one host and on
//! three.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hosts;
mod network;
mod six;
