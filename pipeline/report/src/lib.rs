//! The page of a run and its figures.
//!
//! [`Summary`](summary::Summary) is `summary.json`; [`RunReport`] is that plus samples and
//! training curves; [`write`](fn@write) makes one `report.html` of it that opens from disk.
//!
//! ```text
//! RunReport -> page -> sections (headline, samples, flow, comparison ...) -> plots (svg) -> report.html
//! ```
//!
//! Pure but for [`write`](fn@write). May call `plan` and `dataset`; reads no store, knows no
//! gRPC, and fetches nothing: pictures are handed in as bytes.

mod arm;
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
