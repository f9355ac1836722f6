//! The client's half of a lease: what a worker and a trainer have in common.
//!
//! Asks the coordinator for work by long poll, renews what it holds from a thread and runtime of
//! its own (so that no computation starves a heartbeat), commits the output and answers. What the
//! work is, the [`Executor`] knows; this room may call `proto`, `runtime`, `plan` and `dataset`.
//!
//! ```text
//! Lease ─► Executor::execute ─► commit record (store) ─► Complete
//!   ▲          │  progress            │ another's: adopted
//!   │          ▼                      ▼
//!   └──── heartbeat thread        Fail(kind, message)
//!              │ stale, cancelled      │ the worker stops
//!              ▼                       ▼
//!         cancel, silence           Release
//! ```

mod answer;
mod assignment;
mod count;
mod error;
mod heartbeat;
mod message;
mod options;
mod serve;
mod work;

pub use assignment::{Assignment, Control, Done, Executor, Failure, Progress, Waiting};
pub use error::Error;
pub use options::Options;
pub use serve::serve;
