//! The client side of a lease, which workers and trainers share.
//!
//! It leases tasks from the coordinator by long poll, renews the leases from a thread with a
//! runtime of its own (so that no computation delays a heartbeat), commits the output and reports
//! the outcome. An [`Executor`] does the work. This crate may call `proto`, `runtime`, `plan` and
//! `dataset`.
//!
//! ```text
//! Lease ─► Executor::execute ─► commit record (store) ─► Complete
//!   ▲          │  progress            │ another attempt's: adopted
//!   │          ▼                      ▼
//!   └──── heartbeat thread        Fail(kind, message)
//!              │ stale, cancelled      │ the worker stops, or the lease was not renewed in time
//!              ▼                       ▼
//!         cancel, no report         Release       Leave: the last call of a worker
//! ```

mod assignment;
mod count;
mod error;
#[cfg(test)]
mod fake;
mod heartbeat;
mod message;
mod options;
mod report;
mod serve;
mod session;
mod settings;
mod turns;
mod work;

pub use assignment::{Assignment, Control, Done, Executor, Failure, ProgressCounter, Waiting};
pub use error::Error;
pub use options::Options;
pub use serve::serve;
pub use turns::{Seat, Turn, Turns};
