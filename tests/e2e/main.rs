//! The program as its users run it: real processes, real sockets, real files.
//!
//! A target of the crate `capstan`, so that cargo builds the binary first. Runs use the small
//! world and pipeline of `tests/small`; they assert structure, digests and counts, never gains.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod cluster_input;
mod crawl_truth;
mod demo;
mod given;
mod provenance;
mod resume;
mod up;

use capstan_tests::{harness, process};
