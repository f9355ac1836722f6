//! What the tests share: the program as processes, and servers that they start and stop.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real processes wait in real time"
)]

pub mod cluster;
pub mod go;
pub mod harness;
pub mod minio;
pub mod place;
pub mod process;
pub mod proxy;

/// The middle one; sorts them.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
