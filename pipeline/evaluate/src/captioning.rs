//! Figures of captioning against reference texts.

use capstan_plan::results::CaptioningFigures;

use crate::{bleu, cider, rouge, words};

/// CIDEr-D (times 100), BLEU-4 and ROUGE-L (in percent) of captions.
///
/// - `captions`: one per picture.
/// - `references`: for each picture, its reference texts.
pub fn figures<S: AsRef<str>>(captions: &[String], references: &[Vec<S>]) -> CaptioningFigures {
    let captions: Vec<Vec<String>> = captions.iter().map(|text| words::words(text)).collect();
    let references: Vec<Vec<Vec<String>>> = references
        .iter()
        .map(|set| set.iter().map(|text| words::words(text.as_ref())).collect())
        .collect();
    CaptioningFigures {
        cider: 100.0 * mean(&cider::cider_d(&captions, &references)),
        bleu4: 100.0 * bleu::bleu(&captions, &references).corpus[3],
        rouge_l: Some(100.0 * mean(&rouge::rouge_l(&captions, &references))),
    }
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}
