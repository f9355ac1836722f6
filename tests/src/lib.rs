//! What the suites share: the program as processes, servers that tests start and stop, and the
//! comparison of error lines.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real processes wait in real time"
)]

pub mod cluster;
pub mod disk;
pub mod go;
pub mod harness;
pub mod lines;
pub mod minio;
pub mod place;
pub mod process;
pub mod proxy;

/// The median. Sorts the figures; NaN if there are none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
