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

pub mod checkpoints;
pub mod commits;
pub mod compare;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod error;
pub mod export;
pub mod files;
mod folders;
pub mod held_out;
pub mod index;
pub mod lineage;
pub mod lists;
pub mod models;
pub mod recipes;
pub mod record;
pub mod runs;
pub mod sampler;
pub mod settings;
pub mod stats;
pub mod store;
pub mod verify;
pub mod versions;
pub mod view;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use folders::Entry;
pub use store::{Created, Store};
