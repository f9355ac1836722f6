//! The store: pairs, overlays, commits, dataset versions, models and checkpoints.
//!
//! What lives here: everything that is read from and written to object storage.
//! It may call `plan`; it never knows gRPC, SQL, a web or a model. All access is
//! async (tokio); Parquet is encoded and decoded on blocking threads.
//!
//! ```text
//!  rows ─► files (Parquet, by digest) ─► commits ─► versions ─► view ─► index ─► sampler
//!                data/<blake3>.parquet   runs/      datasets/   joined  no pixels  pure
//! ```
#![allow(unused, clippy::todo)]

pub mod checkpoints;
pub mod commits;
pub mod error;
pub mod files;
pub mod index;
pub mod models;
pub mod recipes;
pub mod record;
pub mod runs;
pub mod sampler;
pub mod store;
pub mod verify;
pub mod versions;
pub mod view;

pub use error::{Error, Result};
pub use store::{Created, Store};
