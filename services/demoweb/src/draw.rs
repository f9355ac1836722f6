//! Keyed random draws: one stream per (seed, purpose, item), so that no draw depends on the order
//! in which pages and pictures are built.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of draws for one item.
#[derive(Debug, Clone)]
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of `item` under `seed` for `purpose`.
    pub(crate) fn new(seed: u64, purpose: &str, item: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&item.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..len`; `len` is small, so that the modulo's bias is below 2^-50.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        (self.bits() % len as u64) as usize
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[from, to)`.
    pub(crate) fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit()
    }

    /// True in `percent` of 100 draws.
    pub(crate) fn percent(&mut self, percent: f64) -> bool {
        self.unit() * 100.0 < percent
    }

    /// One of `items`. The check of the world ensures that the list is not empty.
    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// `0..len` in a drawn order (Fisher-Yates).
    pub(crate) fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

/// Distributes `total` items over `weights`. Shares are exact up to rounding (largest remainder).
pub(crate) fn shares(total: usize, weights: &[f64]) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| total as f64 * w / sum).collect();
    let mut counts: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|a, b| {
        (exact[*b].fract())
            .total_cmp(&exact[*a].fract())
            .then(a.cmp(b))
    });
    let missing = total - counts.iter().sum::<usize>();
    for index in by_remainder.into_iter().cycle().take(missing) {
        counts[index] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_every_part_of_its_key() {
        let base = Draw::new(1, "text", 7).bits();
        assert_eq!(base, Draw::new(1, "text", 7).bits());
        for mut other in [
            Draw::new(2, "text", 7),
            Draw::new(1, "scene", 7),
            Draw::new(1, "text", 8),
        ] {
            assert_ne!(base, other.bits());
        }
    }

    #[test]
    fn shares_are_exact_and_add_up() {
        assert_eq!(
            shares(100, &[40.0, 10.0, 8.0, 16.0, 12.0, 14.0]),
            [40, 10, 8, 16, 12, 14]
        );
        assert_eq!(shares(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(shares(0, &[1.0, 2.0]), [0, 0]);
        assert_eq!(shares(7, &[0.0, 2.0]), [0, 7]);
    }
}
