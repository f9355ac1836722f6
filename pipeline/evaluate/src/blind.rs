//! The blind test: what a model scores when no picture is where it belongs.
//!
//! Whatever figure survives this does not come from looking at pictures.

use capstan_plan::draw::Draws;

/// An order of `0..len` in which nothing keeps its place, drawn from `seed`.
/// `None` for fewer than two, which cannot be permuted so.
///
/// Sattolo's algorithm: a uniformly drawn cycle over all of them.
pub fn derangement(seed: u64, len: usize) -> Option<Vec<usize>> {
    if len < 2 {
        return None;
    }
    let draws = Draws::new(seed, "evaluate blind");
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        let other = (draws.u64(&[], last as u64) % last as u64) as usize;
        order.swap(last, other);
    }
    Some(order)
}
