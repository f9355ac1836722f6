//! Decoding row by row: greedy and nucleus sampling.

use super::{Generated, Job};

/// A text under way.
struct Row {
    picture: usize,
    tokens: Vec<u32>,
}

/// Decodes one text a row; `choose(scores, picture, position)` picks each token.
pub(super) fn rows(
    job: &Job<'_>,
    rows: Vec<Vec<u32>>,
    choose: &dyn Fn(&[f32], usize, usize) -> u32,
) -> Vec<Generated> {
    let prompt = rows.first().map_or(0, Vec::len);
    let mut done: Vec<Option<Generated>> = rows.iter().map(|_| None).collect();
    let mut live: Vec<Row> = rows
        .into_iter()
        .enumerate()
        .map(|(picture, tokens)| Row { picture, tokens })
        .collect();
    let mut cache = job.med.cache();
    for position in 0..prompt - 1 + job.decoding.max_tokens {
        if live.is_empty() {
            break;
        }
        let ids: Vec<u32> = live.iter().map(|row| row.tokens[position]).collect();
        let pictures: Vec<usize> = live.iter().map(|row| row.picture).collect();
        let logits = job
            .med
            .decode_step(&ids, position, job.memory, &pictures, &mut cache);
        let Some(new) = (position + 1).checked_sub(prompt) else {
            continue;
        };
        let [_, vocabulary] = logits.dims();
        let mut scores = logits
            .into_data()
            .try_into_vec::<f32>()
            .expect("logits are f32");
        let mut kept = Vec::with_capacity(live.len());
        for (index, (mut row, scores)) in std::mem::take(&mut live)
            .into_iter()
            .zip(scores.chunks_exact_mut(vocabulary))
            .enumerate()
        {
            job.adjust(scores, &row.tokens, new);
            let token = choose(scores, row.picture, new);
            let stopped = token == job.stop;
            if !stopped {
                row.tokens.push(token);
            }
            if stopped || new + 1 == job.decoding.max_tokens {
                done[row.picture] = Some(Generated {
                    ids: row.tokens.split_off(1),
                    stopped,
                });
            } else {
                kept.push(index as u32);
                live.push(row);
            }
        }
        if kept.len() < ids.len() {
            cache.select(&kept);
        }
    }
    done.into_iter()
        .map(|text| text.expect("every row ends within max_tokens"))
        .collect()
}

/// The likeliest token, the first of equals.
pub(super) fn likeliest(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (id, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = id;
        }
    }
    best as u32
}

/// The token at share `draw` of the likeliest tokens that hold `top_p` of the probability.
pub(super) fn nucleus(scores: &[f32], top_p: f64, draw: f64) -> u32 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(u32, f64)> = scores
        .iter()
        .enumerate()
        .map(|(id, score)| (id as u32, f64::from(score - max).exp()))
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut held = 0.0;
    let mut keep = 0;
    for (_, weight) in &weights {
        if keep > 0 && held > top_p * total {
            break;
        }
        held += weight;
        keep += 1;
    }
    let mut rest = draw * held;
    for (id, weight) in &weights[..keep] {
        if rest < *weight {
            return *id;
        }
        rest -= weight;
    }
    weights[keep - 1].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nucleus_holds_the_likeliest_tokens_alone() {
        // Probabilities 0.1, 0.6, 0.25, 0.05.
        let scores = [0.1f32, 0.6, 0.25, 0.05].map(f32::ln);
        assert_eq!(nucleus(&scores, 0.5, 0.999), 1);
        assert_eq!(nucleus(&scores, 0.8, 0.0), 1);
        assert_eq!(nucleus(&scores, 0.8, 0.69), 1);
        assert_eq!(nucleus(&scores, 0.8, 0.72), 2);
        assert_eq!(nucleus(&scores, 0.8, 0.999), 2);
        assert_eq!(nucleus(&scores, 1.0, 0.999), 3);
    }

    #[test]
    fn forbidden_tokens_are_never_drawn() {
        let scores = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        for draw in [0.0, 0.5, 0.999_999] {
            assert_eq!(nucleus(&scores, 1.0, draw), 1);
        }
        assert_eq!(likeliest(&scores), 1);
    }
}
