//! The page of a run and its figures.
//!
//! [`Summary`](summary::Summary) is `summary.json`. [`RunReport`] adds samples and training curves.
//! [`write`](fn@write) makes one `report.html` of them that opens from disk. [`arm`] derives from
//! the pipeline which model stands for which arm of the comparison.
//!
//! ```text
//! RunReport -> page -> sections (headline, samples, flow, comparison ...) -> plots (svg) -> report.html
//! ```
//!
//! Only [`write`](fn@write) does I/O. This room may call `plan` and `dataset`. It reads no store,
//! uses no gRPC and fetches nothing: the caller passes pictures as bytes.

pub mod arm;
mod number;
mod page;
mod picture;
mod plot;
mod run_report;
mod section;
pub mod summary;
mod write;

pub use run_report::{RunReport, SampleCard, TextLine};
pub use write::{Error, write};
