//! Training through the crate's public items: gradients of the objectives, and resumption.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod objective;
mod resume;
mod validation;
