//! Scores of captions.

use super::Outputs;
use super::array::Array;
use super::case::Case;
use capstan_evaluate::{bleu, cider, rouge};
use std::collections::BTreeMap;

/// The words of a text that is tokenised already.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The values of an object whose keys are image indices, by index.
fn by_image<T: serde::de::DeserializeOwned>(
    config: &serde_json::Value,
    name: &str,
) -> Result<Vec<T>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("config.json: `{name}`: {error}");
    let texts: BTreeMap<String, T> =
        serde_json::from_value(config[name].clone()).map_err(|error| wrong(&error))?;
    let mut ordered = Vec::with_capacity(texts.len());
    for (key, texts) in texts {
        let index: u64 = key.parse().map_err(|error| wrong(&error))?;
        ordered.push((index, texts));
    }
    ordered.sort_by_key(|(index, _)| *index);
    Ok(ordered.into_iter().map(|(_, texts)| texts).collect())
}

pub fn compute(case: &Case) -> Result<Outputs, String> {
    let config = case.config()?;
    let references: Vec<Vec<String>> = by_image(&config, "references")?;
    let candidates: Vec<String> = by_image(&config, "candidates")?;
    let references: Vec<Vec<Vec<String>>> = references
        .iter()
        .map(|set| set.iter().map(|text| words(text)).collect())
        .collect();
    let captions: Vec<Vec<String>> = candidates.iter().map(|text| words(text)).collect();
    let images = captions.len();
    let mean = |each: &[f64]| each.iter().sum::<f64>() / images as f64;

    let bleu = bleu::bleu(&captions, &references);
    let per_image = (0..4).flat_map(|n| bleu.each.iter().map(move |scores| scores[n]));
    let cider = cider::cider_d(&captions, &references);
    let rouge = rouge::rouge_l(&captions, &references);
    Ok(vec![
        ("bleu".into(), Array::double(&[4], bleu.corpus.to_vec())),
        (
            "bleu_per_image".into(),
            Array::double(&[4, images], per_image.collect()),
        ),
        ("cider".into(), Array::double(&[], vec![mean(&cider)])),
        ("rouge_l".into(), Array::double(&[], vec![mean(&rouge)])),
        ("cider_per_image".into(), Array::double(&[images], cider)),
        ("rouge_l_per_image".into(), Array::double(&[images], rouge)),
    ])
}
