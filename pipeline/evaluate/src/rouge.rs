//! ROUGE-L (Lin 2004, section 3.1): the longest common subsequence.

/// Weight of recall against precision in the F measure, as in the reference scorer.
const BETA: f64 = 1.2;

/// ROUGE-L of each caption, 0 to 1. That of a set is their mean.
///
/// Precision and recall are the longest common subsequence of caption and reference as a share of the
/// caption's and of the reference's words; each is the maximum over the references. Equal to
/// `pycocoevalcap.rouge`.
///
/// - `captions`: the words of each caption.
/// - `references`: for each caption, the words of its references.
pub fn rouge_l(captions: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Vec<f64> {
    let scores = captions.iter().zip(references).map(|(caption, set)| {
        let (mut precision, mut recall) = (0.0f64, 0.0f64);
        for reference in set {
            let common = common_length(caption, reference) as f64;
            precision = precision.max(common / caption.len().max(1) as f64);
            recall = recall.max(common / reference.len().max(1) as f64);
        }
        if precision == 0.0 || recall == 0.0 {
            return 0.0;
        }
        let squared = BETA * BETA;
        (1.0 + squared) * precision * recall / (recall + squared * precision)
    });
    scores.collect()
}

/// Length of the longest common subsequence of two texts.
fn common_length(a: &[String], b: &[String]) -> usize {
    // `best[j]`: of the words of `a` so far and the first `j` of `b`.
    let mut best = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = best[j + 1];
            best[j + 1] = match word == other {
                true => diagonal + 1,
                false => above.max(best[j]),
            };
            diagonal = above;
        }
    }
    best[b.len()]
}
