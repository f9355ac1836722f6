//! Zero-shot classification: a class is the mean of its prompts.
//!
//! As CLIP does it (Radford et al. 2021, section 3.1.4): the embeddings of a
//! class under every template are normalised, averaged and normalised again.

use capstan_plan::results::ZeroShotFigures;

use crate::scores::Scores;

/// The text of a class under a template, `{}` standing for the class.
pub fn prompt(template: &str, class: &str) -> String {
    template.replace("{}", class)
}

/// The vector at unit length; a vector of zeros stays one.
pub fn normalise(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
    vector.iter().map(|x| x * scale).collect()
}

/// The embedding of a class from those of its prompts, each `[projection]`.
pub fn ensemble(prompts: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; prompts.first().map_or(0, Vec::len)];
    for vector in prompts {
        for (total, x) in sum.iter_mut().zip(normalise(vector)) {
            *total += x;
        }
    }
    // The mean and the sum point the same way.
    normalise(&sum)
}

/// Share of pictures whose own class scores strictly above every other.
///
/// - `scores`: `[pictures, classes]`.
/// - `class`: `[pictures]`, the right one.
pub fn figures(scores: &Scores, class: &[usize]) -> ZeroShotFigures {
    let right = class.iter().enumerate().filter(|&(picture, &own)| {
        let row = scores.row(picture);
        let mut others = row.iter().enumerate().filter(|&(other, _)| other != own);
        others.all(|(_, &score)| score < row[own])
    });
    let right = right.count() as f64;
    ZeroShotFigures {
        accuracy: 100.0 * right / class.len().max(1) as f64,
    }
}
