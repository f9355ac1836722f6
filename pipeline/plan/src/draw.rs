//! Keyed random draws: a draw is a pure function of its key, so no outcome
//! depends on the order of work, on threads or on how the work was split.

use crate::id::Digest;

/// The key of a family of draws: a seed and a purpose.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    key: [u8; 32],
}

impl Draws {
    /// Draws for `purpose` under `seed`; two purposes never share draws.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self {
            key: Digest::of_parts([&seed.to_le_bytes()[..], purpose.as_bytes()]).0,
        }
    }

    /// The draw of this item at this position, uniform over all of `u64`.
    pub fn u64(&self, item: &[u8], position: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&position.to_le_bytes());
        hasher.update(item);
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
    }

    /// The draw of this item at this position, uniform in `[0, 1)` with 53 bits.
    pub fn unit(&self, item: &[u8], position: u64) -> f64 {
        (self.u64(item, position) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A stream of draws of this item, each uniform in `[0, 1)` with 53 bits: for items that need many.
    pub fn units(&self, item: &[u8]) -> impl Iterator<Item = f64> + use<> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&u64::MAX.to_le_bytes());
        hasher.update(item);
        let mut stream = hasher.finalize_xof();
        std::iter::repeat_with(move || {
            let mut bytes = [0u8; 8];
            stream.fill(&mut bytes);
            (u64::from_le_bytes(bytes) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
        })
    }

    /// `0..len` in an order drawn for `item` (Fisher-Yates).
    pub fn permutation(&self, item: &[u8], len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            let other = (self.u64(item, last as u64) % (last as u64 + 1)) as usize;
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_every_part_of_the_key() {
        let base = Draws::new(1, "a").u64(b"x", 0);
        assert_eq!(base, Draws::new(1, "a").u64(b"x", 0));
        for other in [
            Draws::new(2, "a").u64(b"x", 0),
            Draws::new(1, "b").u64(b"x", 0),
            Draws::new(1, "a").u64(b"y", 0),
            Draws::new(1, "a").u64(b"x", 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn units_are_uniform_enough() {
        let draws = Draws::new(7, "mean");
        let by_position = (0..10_000).map(|i| draws.unit(b"", i)).sum::<f64>() / 10_000.0;
        let by_stream = draws.units(b"").take(10_000).sum::<f64>() / 10_000.0;
        for mean in [by_position, by_stream] {
            assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        }
        let first = |draws: &Draws, item: &[u8]| draws.units(item).next();
        assert_eq!(first(&draws, b"a"), first(&draws, b"a"));
        assert_ne!(first(&draws, b"a"), first(&draws, b"b"));
        assert_ne!(first(&draws, b"a"), first(&Draws::new(8, "mean"), b"a"));
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Draws::new(3, "p").permutation(b"e", 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
