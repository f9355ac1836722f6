//! Changes of the scores of the next token, as Hugging Face's `generate` makes them, in its order:
//! [`penalise`], [`forbid_ngrams`], [`forbid`], then for draws [`warm`], [`keep_likeliest`] and
//! [`keep_nucleus`]. A token that cannot be chosen has the score of minus infinity.

/// Divides positive scores of tokens that were used by `penalty`, and multiplies negative ones by it; once
/// for each distinct token (Keskar et al. 2019, section 4.1).
pub fn penalise(scores: &mut [f32], used: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut used = used.to_vec();
    used.sort_unstable();
    used.dedup();
    for id in used {
        let score = &mut scores[id as usize];
        *score = match *score < 0.0 {
            true => *score * penalty,
            false => *score / penalty,
        };
    }
}

/// Forbids every token that would repeat a sequence of `length` tokens.
///
/// - `length`: 0 forbids nothing.
pub fn forbid_ngrams(scores: &mut [f32], tokens: &[u32], length: usize) {
    if length == 0 || tokens.len() + 1 < length {
        return;
    }
    let beginning = &tokens[tokens.len() + 1 - length..];
    let repeated = tokens
        .windows(length)
        .filter(|ngram| ngram[..length - 1] == *beginning)
        .map(|ngram| ngram[length - 1]);
    for id in repeated {
        scores[id as usize] = f32::NEG_INFINITY;
    }
}

/// Forbids tokens.
pub fn forbid(scores: &mut [f32], ids: &[u32]) {
    for id in ids {
        scores[*id as usize] = f32::NEG_INFINITY;
    }
}

/// Divides the scores by a temperature: above 1 unlikely tokens become likelier.
pub fn warm(scores: &mut [f32], temperature: f32) {
    if temperature != 1.0 {
        scores.iter_mut().for_each(|score| *score /= temperature);
    }
}

/// Forbids all tokens but the `count` likeliest, and those that are as likely as the last of them.
///
/// - `count`: 0 forbids nothing.
pub fn keep_likeliest(scores: &mut [f32], count: usize) {
    if count == 0 || count >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, least, _) = sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    let least = *least;
    for score in scores.iter_mut().filter(|score| **score < least) {
        *score = f32::NEG_INFINITY;
    }
}

/// A token that can be chosen, with its share of the probability (of no fixed sum).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its share.
    pub weight: f64,
}

/// The smallest set of the likeliest tokens whose probability reaches `top_p` (Holtzman et al.
/// 2020), the likeliest first; of equally likely tokens the first ones.
pub fn nucleus(scores: &[f32], top_p: f64) -> Vec<Candidate> {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = scores.iter().map(|score| f64::from(score - max).exp());
    let candidates = (0..).zip(weights).filter(|(_, weight)| *weight > 0.0);
    let mut kept: Vec<Candidate> = candidates
        .map(|(id, weight)| Candidate { id, weight })
        .collect();
    kept.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
    if top_p < 1.0 {
        let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
        let mut held = 0.0;
        let enough = kept.iter().position(|candidate| {
            held += candidate.weight;
            held >= top_p * total
        });
        kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    }
    kept
}

/// Forbids all tokens but those of the [`nucleus`].
pub fn keep_nucleus(scores: &mut [f32], top_p: f64) {
    let kept: Vec<(usize, f32)> = nucleus(scores, top_p)
        .iter()
        .map(|candidate| (candidate.id as usize, scores[candidate.id as usize]))
        .collect();
    scores.fill(f32::NEG_INFINITY);
    for (id, score) in kept {
        scores[id] = score;
    }
}

/// The token at share `draw` of the probability of `candidates`.
pub fn pick(candidates: &[Candidate], draw: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut rest = draw * total;
    for candidate in candidates {
        if rest < candidate.weight {
            return candidate.id;
        }
        rest -= candidate.weight;
    }
    candidates.last().map_or(0, |last| last.id)
}

/// The `count` best tokens by score, the best first; of equals the first ones. Forbidden tokens are
/// left out.
pub fn best(scores: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for candidate in (0..).zip(scores.iter().copied()) {
        let worse = best.len() == count && best.last().is_none_or(|last| candidate.1 <= last.1);
        if worse || candidate.1 == f32::NEG_INFINITY {
            continue;
        }
        let place = best.partition_point(|held| order(held, &candidate).is_lt());
        best.insert(place, candidate);
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: f32 = f32::NEG_INFINITY;

    /// The tokens that the nucleus keeps.
    fn kept(scores: &[f32], top_p: f64) -> Vec<usize> {
        let mut scores = scores.to_vec();
        keep_nucleus(&mut scores, top_p);
        let kept = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| **score > NEVER);
        kept.map(|(id, _)| id).collect()
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_its_share() {
        let scores = [0.1f32, 0.6, 0.25, 0.05].map(f32::ln);
        assert_eq!(kept(&scores, 0.5), [1]);
        assert_eq!(kept(&scores, 0.8), [1, 2]);
        assert_eq!(kept(&scores, 0.9), [0, 1, 2]);
        assert_eq!(kept(&scores, 1.0), [0, 1, 2, 3]);
        assert_eq!(kept(&[0.0; 3], 0.3), [0], "one token at least");
        assert_eq!(kept(&[0.0; 4], 0.5), [0, 1], "the first of equals");
    }

    #[test]
    fn draws_find_tokens_by_their_share() {
        let scores = [0.1f32, 0.6, 0.25, 0.05].map(f32::ln);
        for (draw, token) in [(0.0, 1), (0.59, 1), (0.61, 2), (0.86, 0), (0.999, 3)] {
            assert_eq!(pick(&nucleus(&scores, 1.0), draw), token, "{draw}");
        }
        assert_eq!(pick(&nucleus(&[NEVER, 0.0, NEVER], 1.0), 0.999_999), 1);
        assert_eq!(pick(&nucleus(&scores, 0.8), 0.999), 2, "within the nucleus");
    }

    #[test]
    fn the_best_are_those_of_a_sort() {
        let scores: Vec<f32> = (0..200u32)
            .map(|i| match i % 17 {
                0 => NEVER,
                _ => (i * 37 % 29) as f32,
            })
            .collect();
        let mut sorted: Vec<(u32, f32)> = (0..).zip(scores.iter().copied()).collect();
        sorted.retain(|(_, score)| *score > NEVER);
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        for count in [1, 6, 50, 300] {
            let wanted = &sorted[..count.min(sorted.len())];
            assert_eq!(best(&scores, count), wanted, "{count}");
        }
    }

    #[test]
    fn a_token_that_would_repeat_a_sequence_is_forbidden() {
        let forbidden = |tokens: &[u32], length| {
            let mut scores = [0.0; 5];
            forbid_ngrams(&mut scores, tokens, length);
            let ids = scores
                .iter()
                .enumerate()
                .filter(|(_, score)| **score == NEVER);
            ids.map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(forbidden(&[1, 2, 3, 1], 2), [2]);
        assert_eq!(forbidden(&[1, 2, 1, 3, 1], 2), [2, 3]);
        assert_eq!(forbidden(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(forbidden(&[1, 2], 1), [1, 2], "no token twice");
        assert!(forbidden(&[1, 2, 1], 0).is_empty());
        assert!(forbidden(&[1], 3).is_empty());
    }

    #[test]
    fn ties_with_the_last_of_the_likeliest_are_kept() {
        let mut scores = [3.0, 1.0, 2.0, 2.0];
        keep_likeliest(&mut scores, 2);
        assert_eq!(scores, [3.0, NEVER, 2.0, 2.0]);
        keep_likeliest(&mut scores, 0);
        assert_eq!(scores, [3.0, NEVER, 2.0, 2.0]);
    }
}
