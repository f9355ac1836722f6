//! Zero-shot classification with the mean embedding of a class's prompts.
//!
//! As in CLIP (Radford et al. 2021, section 3.1.4): the embeddings of a class under every template
//! are normalised, averaged and normalised again.

use capstan_plan::results::ZeroShotFigures;

use crate::scores::Scores;

/// The prompt of a class: the template with the class in place of `{}`.
pub fn prompt(template: &str, class: &str) -> String {
    template.replace("{}", class)
}

/// The vector scaled to unit length. A zero vector stays a zero vector.
pub fn normalise(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
    vector.iter().map(|x| x * scale).collect()
}

/// The embedding of a class from the embeddings of its prompts, each `[projection]`.
pub fn ensemble(prompts: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; prompts.first().map_or(0, Vec::len)];
    for vector in prompts {
        for (total, x) in sum.iter_mut().zip(normalise(vector)) {
            *total += x;
        }
    }
    // The mean and the sum have the same direction.
    normalise(&sum)
}

/// The accuracy: the share of pictures whose class scores strictly above every other class.
///
/// - `scores`: `[pictures, classes]`.
/// - `class`: `[pictures]`, the class of each picture.
pub fn figures(scores: &Scores, class: &[usize]) -> ZeroShotFigures {
    let correct = class.iter().enumerate().filter(|&(picture, &own)| {
        let row = scores.row(picture);
        let mut others = row.iter().enumerate().filter(|&(other, _)| other != own);
        others.all(|(_, &score)| score < row[own])
    });
    let correct = correct.count() as f64;
    ZeroShotFigures {
        accuracy: 100.0 * correct / class.len().max(1) as f64,
    }
}
