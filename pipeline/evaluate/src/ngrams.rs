//! Counts of n-grams, for CIDEr-D and BLEU.

use std::collections::BTreeMap;

/// Length of the longest n-grams that are counted.
pub const MAX_N: usize = 4;

/// The count of each n-gram. The maps are ordered, so that sums over them have the same order and
/// the same bits in every run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ngrams<'a> {
    /// `counts[n - 1]`: the n-grams of length n.
    pub counts: [BTreeMap<&'a [String], usize>; MAX_N],
}

impl<'a> Ngrams<'a> {
    /// Counts the n-grams of length 1 to [`MAX_N`].
    pub fn count(words: &'a [String]) -> Self {
        let mut ngrams = Self::default();
        for (n, counts) in ngrams.counts.iter_mut().enumerate() {
            for gram in words.windows(n + 1) {
                *counts.entry(gram).or_default() += 1;
            }
        }
        ngrams
    }
}
