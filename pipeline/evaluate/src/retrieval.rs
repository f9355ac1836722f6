//! Retrieval: recall at k of texts and of pictures.

use capstan_plan::results::RetrievalFigures;

use crate::scores::Scores;

/// The number of scores in `wrong` that are not below `own`.
///
/// A tie counts as wrong, and so does NaN, so that a model with equal scores retrieves nothing.
fn not_below(own: f32, wrong: impl Iterator<Item = f32>) -> usize {
    wrong
        .filter(|score| score.partial_cmp(&own) != Some(std::cmp::Ordering::Less))
        .count()
}

/// For every picture, the number of wrong texts that score at least as high as its best own text.
///
/// `owner[text]` is the picture that a text belongs to. The rank of a picture without texts is
/// `usize::MAX`.
pub fn text_ranks(scores: &Scores, owner: &[usize]) -> Vec<usize> {
    (0..scores.pictures())
        .map(|picture| {
            let row = scores.row(picture);
            let of_owner = |own: bool| {
                let places = row.iter().zip(owner);
                places.filter_map(move |(&s, &o)| ((o == picture) == own).then_some(s))
            };
            match of_owner(true).reduce(f32::max) {
                Some(best) => not_below(best, of_owner(false)),
                None => usize::MAX,
            }
        })
        .collect()
}

/// For every text, the number of wrong pictures that score at least as high as its own picture.
pub fn picture_ranks(scores: &Scores, owner: &[usize]) -> Vec<usize> {
    owner
        .iter()
        .enumerate()
        .map(|(text, &own)| {
            let wrong = scores.column(text).enumerate();
            let wrong = wrong.filter_map(|(picture, s)| (picture != own).then_some(s));
            not_below(scores.at(own, text), wrong)
        })
        .collect()
}

/// The percentage of ranks below `k`; 0 if there are no ranks.
fn recall(ranks: &[usize], k: usize) -> f64 {
    if ranks.is_empty() {
        return 0.0;
    }
    let hits = ranks.iter().filter(|&&rank| rank < k).count();
    100.0 * hits as f64 / ranks.len() as f64
}

/// R@1, R@5 and R@10 in both directions. A tie is a miss: for R@k, at most `k - 1` wrong candidates may have
/// a score that is not below that of the right one.
///
/// - `of_texts`: `[pictures, texts]`, ranks the texts of a picture (TR; any of its texts counts).
/// - `of_pictures`: `[pictures, texts]`, ranks the pictures of a text (IR). Cosine gives the same
///   matrix for both; re-ranking scores other candidates in each direction.
/// - `owner`: `[texts]`, the picture of each text.
pub fn figures(of_texts: &Scores, of_pictures: &Scores, owner: &[usize]) -> RetrievalFigures {
    let texts = text_ranks(of_texts, owner);
    let pictures = picture_ranks(of_pictures, owner);
    RetrievalFigures {
        tr_at_1: recall(&texts, 1),
        tr_at_5: recall(&texts, 5),
        tr_at_10: Some(recall(&texts, 10)),
        ir_at_1: recall(&pictures, 1),
        ir_at_5: recall(&pictures, 5),
        ir_at_10: Some(recall(&pictures, 10)),
    }
}
