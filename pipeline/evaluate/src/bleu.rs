//! BLEU-4 of a corpus (Papineni et al. 2002), with the closest reference length.

use crate::ngrams::{MAX_N, Ngrams};

/// Added to numerators, as in the reference scorer, so that the logarithm exists for a corpus without
/// a common four-gram.
const TINY: f64 = 1e-15;
/// Added to denominators, as in the reference scorer.
const SMALL: f64 = 1e-9;

/// BLEU-4 of a corpus, 0 to 1.
///
/// Clipped n-gram matches and lengths are summed over the corpus. The reference length of a caption is
/// that of its closest reference, and of two equally close ones the shorter. Equal to
/// `pycocoevalcap.bleu` (option `closest`).
///
/// - `captions`: the words of each caption.
/// - `references`: for each caption, the words of its references.
pub fn bleu4(captions: &[Vec<String>], references: &[Vec<Vec<String>>]) -> f64 {
    let (mut matched, mut total) = ([0usize; MAX_N], [0usize; MAX_N]);
    let (mut length, mut reference_length) = (0usize, 0usize);
    for (caption, references) in captions.iter().zip(references) {
        length += caption.len();
        reference_length += closest_length(caption.len(), references);
        let own = Ngrams::count(caption);
        let theirs: Vec<Ngrams<'_>> = references.iter().map(|r| Ngrams::count(r)).collect();
        for n in 0..MAX_N {
            total[n] += caption.len().saturating_sub(n);
            matched[n] += own.counts[n]
                .iter()
                .map(|(gram, &count)| {
                    let allowed = theirs.iter().filter_map(|r| r.counts[n].get(gram)).max();
                    count.min(allowed.copied().unwrap_or(0))
                })
                .sum::<usize>();
        }
    }
    let product: f64 = matched
        .iter()
        .zip(total)
        .map(|(&matched, total)| (matched as f64 + TINY) / (total as f64 + SMALL))
        .product();
    let ratio = (length as f64 + TINY) / (reference_length as f64 + SMALL);
    let brevity = if ratio < 1.0 {
        (1.0 - 1.0 / ratio).exp()
    } else {
        1.0
    };
    product.powf(1.0 / MAX_N as f64) * brevity
}

fn closest_length(length: usize, references: &[Vec<String>]) -> usize {
    let lengths = references.iter().map(Vec::len);
    lengths
        .min_by_key(|&reference| (reference.abs_diff(length), reference))
        .unwrap_or(0)
}
