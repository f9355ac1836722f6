//! Figures of captioning against reference texts.

use capstan_plan::results::CaptioningFigures;

use crate::{bleu, cider, words};

/// CIDEr-D (times 100) and BLEU-4 (in percent) of captions.
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
        cider: 100.0 * cider::cider_d(&captions, &references),
        bleu4: 100.0 * bleu::bleu4(&captions, &references),
    }
}
