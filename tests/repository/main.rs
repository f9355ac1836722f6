//! Checks of the repository itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod architecture;
