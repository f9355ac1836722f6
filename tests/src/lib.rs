//! What the tests share: servers that they start and stop.

pub mod go;
pub mod minio;
pub mod proxy;

/// The middle one; sorts them.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
