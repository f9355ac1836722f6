//! Beam search as Hugging Face's `generate` does it with `early_stopping=False`: a
//! picture ends when its best open text, at its present length, cannot pass the
//! worst of its finished ones.

use super::{Generated, Job, log_softmax};

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
pub(super) fn search(
    job: &Job<'_>,
    rows: Vec<Vec<u32>>,
    width: usize,
    penalty: f64,
) -> Vec<Generated> {
    let prompt = rows.first().map_or(0, Vec::len);
    let mut done: Vec<Option<Generated>> = rows.iter().map(|_| None).collect();
    let mut cache = job.med.cache();
    // Before the first choice all beams of a picture are one.
    let mut live: Vec<Beams> = rows
        .into_iter()
        .enumerate()
        .map(|(picture, tokens)| Beams {
            picture,
            open: vec![Text { tokens, score: 0.0 }],
            finished: Vec::new(),
        })
        .collect();
    for position in 0..prompt - 1 + job.decoding.max_tokens {
        if live.is_empty() {
            break;
        }
        let texts = || {
            live.iter()
                .flat_map(|beams| beams.open.iter().map(move |text| (beams.picture, text)))
        };
        let ids: Vec<u32> = texts().map(|(_, text)| text.tokens[position]).collect();
        let pictures: Vec<usize> = texts().map(|(picture, _)| picture).collect();
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
        let mut first = 0;
        let mut kept = Vec::new();
        for mut beams in std::mem::take(&mut live) {
            let count = beams.open.len();
            let scores = &mut scores[first * vocabulary..(first + count) * vocabulary];
            let parents = beams.advance(job, scores, vocabulary, new, width, penalty);
            if parents.is_empty() {
                let picture = beams.picture;
                done[picture] = Some(beams.best(job.stop));
            } else {
                kept.extend(parents.into_iter().map(|parent| (first + parent) as u32));
                live.push(beams);
            }
            first += count;
        }
        cache.select(&kept);
    }
    done.into_iter()
        .map(|text| text.expect("every picture ends within max_tokens"))
        .collect()
}

impl Beams {
    /// One step: the parent of each beam that goes on, none when the picture is done.
    fn advance(
        &mut self,
        job: &Job<'_>,
        scores: &mut [f32],
        vocabulary: usize,
        new: usize,
        width: usize,
        penalty: f64,
    ) -> Vec<usize> {
        let candidates = self.candidates(job, scores, vocabulary, new, width);
        let last = new + 1 == job.decoding.max_tokens;
        let length = ((new + 1) as f64).powf(penalty);
        let mut open = Vec::new();
        let mut parents = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let mut tokens = self.open[candidate.beam].tokens.clone();
            tokens.push(candidate.token);
            if candidate.token == job.stop || last {
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

    /// The best `2 * width` continuations, best first.
    fn candidates(
        &self,
        job: &Job<'_>,
        scores: &mut [f32],
        vocabulary: usize,
        new: usize,
        width: usize,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (beam, (text, scores)) in self
            .open
            .iter()
            .zip(scores.chunks_exact_mut(vocabulary))
            .enumerate()
        {
            log_softmax(scores);
            job.adjust(scores, &text.tokens, new);
            candidates.extend(
                scores
                    .iter()
                    .enumerate()
                    .filter(|(_, s)| s.is_finite())
                    .map(|(id, score)| Candidate {
                        score: text.score + f64::from(*score),
                        beam,
                        token: id as u32,
                    }),
            );
        }
        candidates.sort_by(|a, b| {
            b.score
                .total_cmp(&a.score)
                .then((a.beam, a.token).cmp(&(b.beam, b.token)))
        });
        candidates.truncate(2 * width);
        candidates
    }

    fn best(mut self, stop: u32) -> Generated {
        let mut tokens = if self.finished.is_empty() {
            self.open.swap_remove(0).tokens
        } else {
            self.finished.swap_remove(0).tokens
        };
        let stopped = tokens.last() == Some(&stop);
        if stopped {
            tokens.pop();
        }
        Generated {
            ids: tokens.split_off(1),
            stopped,
        }
    }
}
