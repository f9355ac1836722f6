//! The pipeline file, its stages and their graph: pure data, no I/O.
//!
//! What lives here: identifiers, the kinds of failure, keyed random draws, the
//! pipeline file with the configuration of every stage, how a stage is split
//! into tasks (`expand`), recipe hashes, and the plain result types that
//! `report` draws. Everything else may depend on this room; it depends on none
//! of ours and touches no file and no socket. Its one module that reads the time
//! is `clock`: other rooms are handed that clock. Its one module that draws
//! random numbers is `backoff`, for the delays of retries.
//!
//! ```text
//! pipeline.toml ─► Pipeline ─► graph (checked) ─► expand(stage, commits so far)
//!                                                   │
//!                                      tasks of the next step, or Done(outputs)
//! ```

pub mod backoff;
pub mod check;
pub mod clock;
pub mod commit;
pub mod draw;
pub mod expand;
pub mod failure;
pub mod id;
pub mod pipeline;
pub mod recipe;
pub mod reject;
pub mod results;
pub mod role;
pub mod row;
pub mod stage;
pub mod task;

pub use failure::FailureKind;
pub use pipeline::Pipeline;
