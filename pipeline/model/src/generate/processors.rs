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

/// Forbids all tokens but the smallest set of the likeliest ones whose probability reaches `top_p`
/// (Holtzman et al. 2020). Of equally likely tokens the first ones are kept.
pub fn keep_nucleus(scores: &mut [f32], top_p: f64) {
    if top_p >= 1.0 {
        return;
    }
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: f32| f64::from(score - max).exp();
    let mut ids: Vec<usize> = (0..scores.len()).collect();
    ids.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let total: f64 = ids.iter().map(|id| weight(scores[*id])).sum();
    let mut held = 0.0;
    for (place, id) in ids.into_iter().enumerate() {
        if place > 0 && held >= top_p * total {
            scores[id] = f32::NEG_INFINITY;
        } else {
            held += weight(scores[id]);
        }
    }
}

/// The token at share `draw` of the probability of those that can be chosen, the likeliest first.
pub fn pick(scores: &[f32], draw: f64) -> u32 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = scores.iter().map(|score| f64::from(score - max).exp());
    let mut weights: Vec<(u32, f64)> = (0..).zip(weights).filter(|(_, w)| *w > 0.0).collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut rest = draw * total;
    for (id, weight) in &weights {
        if rest < *weight {
            return *id;
        }
        rest -= weight;
    }
    weights.last().map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: f32 = f32::NEG_INFINITY;

    /// The tokens that the nucleus keeps.
    fn nucleus(scores: &[f32], top_p: f64) -> Vec<usize> {
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
        assert_eq!(nucleus(&scores, 0.5), [1]);
        assert_eq!(nucleus(&scores, 0.8), [1, 2]);
        assert_eq!(nucleus(&scores, 0.9), [0, 1, 2]);
        assert_eq!(nucleus(&scores, 1.0), [0, 1, 2, 3]);
        assert_eq!(nucleus(&[0.0; 3], 0.3), [0], "one token at least");
        assert_eq!(nucleus(&[0.0; 4], 0.5), [0, 1], "the first of equals");
    }

    #[test]
    fn draws_find_tokens_by_their_share() {
        let scores = [0.1f32, 0.6, 0.25, 0.05].map(f32::ln);
        for (draw, token) in [(0.0, 1), (0.59, 1), (0.61, 2), (0.86, 0), (0.999, 3)] {
            assert_eq!(pick(&scores, draw), token, "{draw}");
        }
        assert_eq!(pick(&[NEVER, 0.0, NEVER], 0.999_999), 1);
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
