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
    choose: &dyn Fn(&mut [f32], usize, usize) -> u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equally_likely_tokens_is_taken() {
        assert_eq!(likeliest(&[f32::NEG_INFINITY, 1.0, 1.0]), 1);
    }
}
