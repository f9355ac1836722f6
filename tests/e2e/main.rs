//! The program as its users run it: real processes, real sockets, real files.
//!
//! A target of the package `capstan`, so that cargo builds the binary first. Runs use the small world
//! and pipeline of `tests/small`. They assert structure, digests and counts, never model quality.
//! Error lines are compared whole, with the files in `tests/e2e/lines`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod bad_input;
mod cluster_input;
mod crawl_truth;
mod demo;
mod given;
mod provenance;
mod resume;
mod up;

use capstan_tests::{harness, process};
