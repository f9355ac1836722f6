//! CIDEr-D (Vedantam et al. 2015, section 5).

use std::collections::{BTreeMap, BTreeSet};

use crate::ngrams::{MAX_N, Ngrams};

/// Width of the Gaussian penalty on a difference in length.
const SIGMA: f64 = 6.0;

/// TF-IDF weights of one sentence.
struct Weighted<'a> {
    weights: [BTreeMap<&'a [String], f64>; MAX_N],
    norms: [f64; MAX_N],
    /// Number of bigrams, which the reference scorer uses as the length.
    length: f64,
}

/// Inverse document frequencies over the references of a set.
struct Frequencies<'a> {
    documents: BTreeMap<&'a [String], f64>,
    log_sets: f64,
}

impl<'a> Frequencies<'a> {
    /// Counts, for every n-gram, the pictures that have it in at least one reference.
    fn count(references: &'a [Vec<Vec<String>>]) -> Self {
        let mut documents = BTreeMap::new();
        for set in references {
            let mut seen = BTreeSet::new();
            for reference in set {
                for n in 1..=MAX_N {
                    seen.extend(reference.windows(n));
                }
            }
            for gram in seen {
                *documents.entry(gram).or_insert(0.0) += 1.0;
            }
        }
        Self {
            documents,
            log_sets: (references.len() as f64).ln(),
        }
    }

    fn weigh<'w>(&self, words: &'w [String]) -> Weighted<'w> {
        let ngrams = Ngrams::count(words);
        let weights = ngrams.counts.map(|counts| {
            let weigh = |(gram, count): (&'w [String], usize)| {
                let seen = self.documents.get(gram).copied().unwrap_or(0.0);
                (gram, count as f64 * (self.log_sets - seen.max(1.0).ln()))
            };
            counts.into_iter().map(weigh).collect::<BTreeMap<_, _>>()
        });
        let norm = |of: &BTreeMap<_, f64>| of.values().map(|w| w * w).sum::<f64>().sqrt();
        Weighted {
            norms: std::array::from_fn(|n| norm(&weights[n])),
            weights,
            length: words.len().saturating_sub(1) as f64,
        }
    }
}

/// The similarity of a caption and a reference: the mean over the lengths of n-grams, with the
/// caption's weights clipped to the reference's.
fn similarity(caption: &Weighted<'_>, reference: &Weighted<'_>) -> f64 {
    let shift = caption.length - reference.length;
    let penalty = (-shift * shift / (2.0 * SIGMA * SIGMA)).exp();
    let total: f64 = (0..MAX_N)
        .map(|n| {
            let norms = caption.norms[n] * reference.norms[n];
            if norms == 0.0 {
                return 0.0;
            }
            let product = caption.weights[n].iter().filter_map(|(gram, &weight)| {
                let theirs = *reference.weights[n].get(gram)?;
                Some(weight.min(theirs) * theirs)
            });
            product.sum::<f64>() / norms * penalty
        })
        .sum();
    total / MAX_N as f64
}

/// CIDEr-D of each caption, 0 to 10. That of a set is their mean.
///
/// n-grams of length 1 to 4 are weighted by TF-IDF, with document frequencies over the given
/// references (so that a set of one picture scores 0). Counts are clipped, and a Gaussian with sigma 6
/// penalises a difference in length. The result is 10 times the mean over the references of a picture.
/// Equal to `pycocoevalcap.cider`.
///
/// - `captions`: the words of each caption.
/// - `references`: for each caption, the words of its references.
pub fn cider_d(captions: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Vec<f64> {
    let frequencies = Frequencies::count(references);
    let scores = captions.iter().zip(references).map(|(caption, set)| {
        let caption = frequencies.weigh(caption);
        let similarities = set
            .iter()
            .map(|reference| similarity(&caption, &frequencies.weigh(reference)));
        10.0 * similarities.sum::<f64>() / set.len().max(1) as f64
    });
    scores.collect()
}
