//! Checks of the repository itself: dependencies between crates, files at the top level, and what
//! the documents name.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod architecture;
mod commands;
mod dependencies;
mod documents;
mod layout;
mod targets;
