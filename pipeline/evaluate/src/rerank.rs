//! Re-ranking: image-text matching scores the best candidates by cosine again.
//!
//! As in BLIP's evaluation of retrieval (Li et al. 2022, section 5.1): the score of the k best by
//! cosine is the ITM logit of a match plus the cosine; all others score below them.

use std::cmp::Ordering;

use crate::scores::Scores;

/// The candidates that are scored again, in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// For every picture, its best texts by cosine, best first.
    pub texts: Vec<Vec<usize>>,
    /// For every text, its best pictures by cosine, best first.
    pub pictures: Vec<Vec<usize>>,
}

/// The indices of the `k` highest scores, best first. Equal scores keep their order.
fn best(scores: impl Iterator<Item = f32>, k: usize) -> Vec<usize> {
    let mut order: Vec<(f32, usize)> = scores.zip(0..).collect();
    let above = |a: &(f32, usize), b: &(f32, usize)| -> Ordering {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
    };
    let k = k.min(order.len());
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, above);
    }
    order.truncate(k);
    order.sort_unstable_by(above);
    order.into_iter().map(|(_, index)| index).collect()
}

/// The `k` best texts of every picture and the `k` best pictures of every text.
pub fn candidates(cosine: &Scores, k: usize) -> Candidates {
    Candidates {
        texts: (0..cosine.pictures())
            .map(|picture| best(cosine.row(picture).iter().copied(), k))
            .collect(),
        pictures: (0..cosine.texts())
            .map(|text| best(cosine.column(text), k))
            .collect(),
    }
}

impl Candidates {
    /// Every pair that is a candidate in either direction: for every picture, its texts in ascending
    /// order without duplicates.
    pub fn pairs(&self) -> Vec<Vec<usize>> {
        let mut pairs = self.texts.clone();
        for (text, pictures) in self.pictures.iter().enumerate() {
            for &picture in pictures {
                pairs[picture].push(text);
            }
        }
        for texts in &mut pairs {
            texts.sort_unstable();
            texts.dedup();
        }
        pairs
    }
}

/// The scores after re-ranking, in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Reranked {
    /// `[pictures, texts]`, for the texts of a picture.
    pub of_texts: Scores,
    /// `[pictures, texts]`, for the pictures of a text.
    pub of_pictures: Scores,
}

/// Scores candidates with `logit + cosine` and all others with minus infinity.
///
/// `logit(picture, text)` is the second ITM logit, that of a match.
pub fn rerank(
    cosine: &Scores,
    candidates: &Candidates,
    logit: impl Fn(usize, usize) -> f32,
) -> Reranked {
    let nothing = Scores::filled(cosine.pictures(), cosine.texts(), f32::NEG_INFINITY);
    let (mut of_texts, mut of_pictures) = (nothing.clone(), nothing);
    let score = |picture, text| logit(picture, text) + cosine.at(picture, text);
    for (picture, texts) in candidates.texts.iter().enumerate() {
        for &text in texts {
            of_texts.set(picture, text, score(picture, text));
        }
    }
    for (text, pictures) in candidates.pictures.iter().enumerate() {
        for &picture in pictures {
            of_pictures.set(picture, text, score(picture, text));
        }
    }
    Reranked {
        of_texts,
        of_pictures,
    }
}
