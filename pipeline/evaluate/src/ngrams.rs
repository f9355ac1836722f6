//! Counts of n-grams, the common ground of CIDEr-D and BLEU.

use std::collections::BTreeMap;

/// Longest n-gram that either metric counts.
pub const MAX_N: usize = 4;

/// How often each n-gram occurs, by its length less one. Ordered, so that sums
/// over them always run in one order and give the same bits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ngrams<'a> {
    /// `counts[n - 1]`: the n-grams of length n.
    pub counts: [BTreeMap<&'a [String], usize>; MAX_N],
}

impl<'a> Ngrams<'a> {
    /// Counts the n-grams of length 1 to [`MAX_N`].
    pub fn of(words: &'a [String]) -> Self {
        let mut ngrams = Self::default();
        for (n, counts) in ngrams.counts.iter_mut().enumerate() {
            for gram in words.windows(n + 1) {
                *counts.entry(gram).or_default() += 1;
            }
        }
        ngrams
    }
}
