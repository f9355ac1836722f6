//! The blind test: the figures of a model when every picture is replaced by another of its set.
//!
//! A figure that stays high does not come from the pictures.

use capstan_plan::draw::Draws;

/// A permutation of `0..len` without fixed points, drawn from `seed`. `None` if `len` is below 2,
/// because no such permutation exists.
///
/// Sattolo's algorithm: a cycle over all indices, drawn uniformly.
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
