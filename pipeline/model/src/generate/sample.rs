//! Decoding row by row: greedy and nucleus sampling.

use rayon::prelude::*;

use super::{Generated, Job, Scores};

/// A text under way.
struct Row {
    picture: usize,
    tokens: Vec<u32>,
}

/// Decodes one text a row; `choose(scores, picture, position)` picks each token.
pub(super) fn rows(
    job: &Job<'_>,
    choose: &(dyn Fn(&mut [f32], usize, usize) -> u32 + Sync),
) -> Vec<Generated> {
    let mut done: Vec<Option<Generated>> = job.rows.iter().map(|_| None).collect();
    let rows = job.rows.iter().cloned().enumerate();
    let mut live: Vec<Row> = rows
        .map(|(picture, tokens)| Row { picture, tokens })
        .collect();
    if live.is_empty() {
        return Vec::new();
    }
    let (mut scores, mut state) = job.prefill();
    for new in 0..job.decoding.max_tokens {
        let chosen = next_tokens(job, &live, &mut scores, new, choose);
        let last = new + 1 == job.decoding.max_tokens;
        let (mut kept, mut ids) = (Vec::new(), Vec::new());
        let rows = std::mem::take(&mut live).into_iter().zip(chosen);
        for (index, (mut row, token)) in rows.enumerate() {
            let stopped = job.stops(token);
            if !stopped {
                row.tokens.push(token);
            }
            if stopped || last {
                done[row.picture] = Some(job.generated(row.tokens, stopped));
            } else {
                kept.push(index as u32);
                ids.push(token);
                live.push(row);
            }
        }
        if live.is_empty() {
            break;
        }
        if kept.len() < state.pictures.len() {
            job.decoder.reorder(&mut state, &kept);
        }
        scores = job.step(&ids, &mut state);
    }
    done.into_iter()
        .map(|text| text.expect("every row ends within max_tokens"))
        .collect()
}

fn next_tokens(
    job: &Job<'_>,
    live: &[Row],
    scores: &mut Scores,
    new: usize,
    choose: &(dyn Fn(&mut [f32], usize, usize) -> u32 + Sync),
) -> Vec<u32> {
    let scores = scores.values.par_chunks_exact_mut(scores.vocabulary);
    live.par_iter()
        .zip(scores)
        .map(|(row, scores)| {
            job.adjust(scores, &row.tokens, new);
            choose(scores, row.picture, new)
        })
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
