//! Several crates together in one process, over real sockets and without the `capstan` binary.
//!
//! One binary for all of them, because each binary that links burn adds a link step to every build.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod caption_folder;
mod full_disk;
mod ranks;
mod stopping;
mod store;
mod store_faults;
mod towers;
mod validation;
