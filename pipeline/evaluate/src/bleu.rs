//! BLEU (Papineni et al. 2002), with the closest reference length.

use crate::ngrams::{MAX_N, Ngrams};

/// Added to numerators, as in the reference scorer, so that the logarithm exists for a corpus without
/// a common four-gram.
const TINY: f64 = 1e-15;
/// Added to denominators, as in the reference scorer.
const SMALL: f64 = 1e-9;

/// BLEU of a corpus and of each caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Bleu {
    /// BLEU-1 to BLEU-4 of the corpus, 0 to 1.
    pub corpus: [f64; MAX_N],
    /// The same of each caption by itself.
    pub each: Vec<[f64; MAX_N]>,
}

/// n-gram matches and lengths, of a caption or summed over a corpus.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    matched: [usize; MAX_N],
    total: [usize; MAX_N],
    length: usize,
    reference_length: usize,
}

impl Counts {
    fn count(caption: &[String], references: &[Vec<String>]) -> Self {
        let own = Ngrams::count(caption);
        let theirs: Vec<Ngrams<'_>> = references.iter().map(|r| Ngrams::count(r)).collect();
        let matched = |n: usize| {
            let matched = own.counts[n].iter().map(|(gram, &count)| {
                let allowed = theirs.iter().filter_map(|r| r.counts[n].get(gram)).max();
                count.min(allowed.copied().unwrap_or(0))
            });
            matched.sum()
        };
        Self {
            matched: std::array::from_fn(matched),
            total: std::array::from_fn(|n| caption.len().saturating_sub(n)),
            length: caption.len(),
            reference_length: closest_length(caption.len(), references),
        }
    }

    fn add(&mut self, other: &Self) {
        for n in 0..MAX_N {
            self.matched[n] += other.matched[n];
            self.total[n] += other.total[n];
        }
        self.length += other.length;
        self.reference_length += other.reference_length;
    }

    fn bleu(&self) -> [f64; MAX_N] {
        let ratio = (self.length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let brevity = match ratio < 1.0 {
            true => (1.0 - 1.0 / ratio).exp(),
            false => 1.0,
        };
        let mut product = 1.0;
        std::array::from_fn(|n| {
            product *= (self.matched[n] as f64 + TINY) / (self.total[n] as f64 + SMALL);
            product.powf(1.0 / (n + 1) as f64) * brevity
        })
    }
}

/// BLEU-1 to BLEU-4.
///
/// Clipped n-gram matches and lengths are summed over the corpus. The reference length of a caption is
/// that of its closest reference, and of two equally close ones the shorter. Equal to
/// `pycocoevalcap.bleu` (option `closest`).
///
/// - `captions`: the words of each caption.
/// - `references`: for each caption, the words of its references.
pub fn bleu(captions: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Bleu {
    let mut corpus = Counts::default();
    let each = captions
        .iter()
        .zip(references)
        .map(|(caption, references)| {
            let counts = Counts::count(caption, references);
            corpus.add(&counts);
            counts.bleu()
        });
    let each = each.collect();
    Bleu {
        corpus: corpus.bleu(),
        each,
    }
}

fn closest_length(length: usize, references: &[Vec<String>]) -> usize {
    let lengths = references.iter().map(Vec::len);
    lengths
        .min_by_key(|&reference| (reference.abs_diff(length), reference))
        .unwrap_or(0)
}
