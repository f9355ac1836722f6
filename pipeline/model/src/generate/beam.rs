//! Beam search as Hugging Face's `generate` does it with `early_stopping=False`: a
//! picture ends when its best open text, at its present length, cannot pass the
//! worst of its finished ones.

use rayon::prelude::*;

use super::{Generated, Job, Scores, log_softmax, processors};

#[derive(Debug, Clone)]
struct Text {
    tokens: Vec<u32>,
    /// Sum of log probabilities; of a finished text divided by its length penalty.
    score: f64,
}

/// The beams of one picture.
struct Beams {
    picture: usize,
    open: Vec<Text>,
    finished: Vec<Text>,
}

/// A candidate for the next step.
struct Candidate {
    score: f64,
    beam: usize,
    token: u32,
}

/// Decodes the best text of each row.
pub(super) fn search(job: &Job<'_>, width: usize, penalty: f64) -> Vec<Generated> {
    let mut done: Vec<Option<Generated>> = job.rows.iter().map(|_| None).collect();
    // Before the first choice all beams of a picture are one.
    let rows = job.rows.iter().cloned().enumerate();
    let mut live: Vec<Beams> = rows
        .map(|(picture, tokens)| Beams {
            picture,
            open: vec![Text { tokens, score: 0.0 }],
            finished: Vec::new(),
        })
        .collect();
    if live.is_empty() {
        return Vec::new();
    }
    let (mut scores, mut state) = job.prefill();
    for new in 0..job.decoding.max_tokens {
        let candidates = candidates(job, &live, &mut scores, new, width);
        let mut first = 0;
        let mut kept = Vec::new();
        let beams = std::mem::take(&mut live).into_iter().zip(candidates);
        for (mut beams, candidates) in beams {
            let count = beams.open.len();
            let parents = beams.advance(job, candidates, new, width, penalty);
            if parents.is_empty() {
                let picture = beams.picture;
                done[picture] = Some(beams.best(job));
            } else {
                kept.extend(parents.into_iter().map(|parent| (first + parent) as u32));
                live.push(beams);
            }
            first += count;
        }
        if live.is_empty() {
            break;
        }
        job.decoder.reorder(&mut state, &kept);
        let texts = live.iter().flat_map(|beams| &beams.open);
        let ids: Vec<u32> = texts
            .map(|text| *text.tokens.last().expect("a text has a token"))
            .collect();
        scores = job.step(&ids, &mut state);
    }
    done.into_iter()
        .map(|text| text.expect("every picture ends within max_tokens"))
        .collect()
}

/// The best `2 * width` continuations of each picture, best first.
fn candidates(
    job: &Job<'_>,
    live: &[Beams],
    scores: &mut Scores,
    new: usize,
    width: usize,
) -> Vec<Vec<Candidate>> {
    let texts: Vec<(usize, &Text)> = live
        .iter()
        .flat_map(|beams| beams.open.iter().enumerate())
        .collect();
    let scores = scores.values.par_chunks_exact_mut(scores.vocabulary);
    let found: Vec<Vec<Candidate>> = texts
        .into_par_iter()
        .zip(scores)
        .map(|((beam, text), scores)| {
            log_softmax(scores);
            job.adjust(scores, &text.tokens, new);
            // No more than these of one text can be among the best of the picture.
            let best = processors::best(scores, 2 * width).into_iter();
            best.map(|(token, score)| Candidate {
                score: text.score + f64::from(score),
                beam,
                token,
            })
            .collect()
        })
        .collect();
    let mut found = found.into_iter();
    live.iter()
        .map(|beams| {
            let of_picture = found.by_ref().take(beams.open.len());
            let mut of_picture: Vec<Candidate> = of_picture.flatten().collect();
            of_picture.sort_by(|a, b| {
                b.score
                    .total_cmp(&a.score)
                    .then((a.beam, a.token).cmp(&(b.beam, b.token)))
            });
            of_picture.truncate(2 * width);
            of_picture
        })
        .collect()
}

impl Beams {
    /// One step: the parent of each beam that goes on, none when the picture is done.
    fn advance(
        &mut self,
        job: &Job<'_>,
        candidates: Vec<Candidate>,
        new: usize,
        width: usize,
        penalty: f64,
    ) -> Vec<usize> {
        let last = new + 1 == job.decoding.max_tokens;
        let length = ((new + 1) as f64).powf(penalty);
        let mut open = Vec::new();
        let mut parents = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let mut tokens = self.open[candidate.beam].tokens.clone();
            tokens.push(candidate.token);
            if job.stops(candidate.token) || last {
                // Only what is among the best `width` counts as finished.
                if rank < width {
                    self.finished.push(Text {
                        tokens,
                        score: candidate.score / length,
                    });
                }
            } else if open.len() < width {
                parents.push(candidate.beam);
                open.push(Text {
                    tokens,
                    score: candidate.score,
                });
            }
        }
        self.open = open;
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(width);
        let hopeless = self.finished.len() == width
            && self
                .open
                .first()
                .is_none_or(|best| best.score / length <= self.finished[width - 1].score);
        if last || hopeless {
            Vec::new()
        } else {
            parents
        }
    }

    fn best(mut self, job: &Job<'_>) -> Generated {
        let mut tokens = if self.finished.is_empty() {
            self.open.swap_remove(0).tokens
        } else {
            self.finished.swap_remove(0).tokens
        };
        let stopped = tokens.last().is_some_and(|token| job.stops(*token));
        if stopped {
            tokens.pop();
        }
        job.generated(tokens, stopped)
    }
}
