//! `capstan match`: how well texts match the user's own pictures.

use std::path::Path;

use capstan_model::{MedParts, Tensor, TokenBatch};
use serde_json::json;

use super::pictures::{Loaded, expand};
use crate::args::Match;
use crate::error::{Exit, ExpectedError};

/// Cosine, and probability of a match where the model has a head for it.
struct Score {
    itc: f32,
    itm: Option<f32>,
}

/// Prints how well each text matches each picture.
///
/// # Errors
/// Foreign input, naming the picture or the model folder and the reason.
pub fn matching(args: &Match) -> Result<(), ExpectedError> {
    let pictures = expand(std::slice::from_ref(&args.image))?;
    let loaded = Loaded::open(&args.of_model, Some(MedParts::Filter))?;
    let rows: Vec<Vec<u32>> = args
        .texts
        .iter()
        .map(|text| loaded.model.tokens(text))
        .collect();
    let texts = loaded.model.batch(&rows);
    let many = pictures.len() > 1;
    loaded.each_batch(&pictures, args.of_model.batch, |paths, pixels| {
        let scores = scores(&loaded, pixels, &texts)?;
        for (path, scores) in paths.iter().zip(scores.chunks(args.texts.len())) {
            show(args, many.then_some(path), scores);
        }
        Ok(())
    })
}

/// Scores of every picture with every text, picture by picture.
fn scores(
    loaded: &Loaded,
    pixels: Tensor<4>,
    texts: &TokenBatch,
) -> Result<Vec<Score>, ExpectedError> {
    let network = &loaded.model.network;
    let space = network.embed().ok_or_else(|| {
        ExpectedError::new(
            Exit::ForeignInput,
            format!("a {} does not match texts with pictures", network.role()),
        )
    })?;
    let images = network.encode(pixels);
    let cosines = space.similarities(space.image_features(&images), space.text_features(texts));
    let cosines = floats(cosines)?;
    let Some(head) = network.matching() else {
        let scores = cosines.into_iter().map(|itc| Score { itc, itm: None });
        return Ok(scores.collect());
    };
    let memory = head.memory(&images);
    let mut scores = Vec::with_capacity(cosines.len());
    for (picture, cosines) in cosines.chunks(texts.rows()).enumerate() {
        let logits = head.match_logits(&memory, texts, &vec![picture; texts.rows()]);
        let logits = floats(logits)?;
        scores.extend(
            cosines
                .iter()
                .zip(logits.chunks_exact(2))
                .map(|(itc, two)| {
                    let itm = 1.0 / (1.0 + (two[0] - two[1]).exp());
                    Score {
                        itc: *itc,
                        itm: Some(itm),
                    }
                }),
        );
    }
    Ok(scores)
}

/// Prints the scores of one picture, with its name where there are several.
fn show(args: &Match, path: Option<&&Path>, scores: &[Score]) {
    let image = path.map(|path| path.display().to_string());
    if let Some(image) = image.as_ref().filter(|_| !args.of_model.json) {
        println!("{image}");
    }
    for (text, score) in args.texts.iter().zip(scores) {
        if args.of_model.json {
            let mut line = json!({"text": text, "itc": score.itc, "itm": score.itm});
            if let Some(image) = &image {
                line["image"] = json!(image);
            }
            println!("{line}");
            continue;
        }
        let itm = score
            .itm
            .map_or_else(String::new, |itm| format!("  match {:5.1} %", itm * 100.0));
        println!("cosine {:6.3}{itm}  {text}", score.itc);
    }
}

fn floats(tensor: Tensor<2>) -> Result<Vec<f32>, ExpectedError> {
    tensor
        .into_data()
        .try_to_vec::<f32>()
        .map_err(|error| ExpectedError::new(Exit::RunFailed, format!("{error:?}")))
}
