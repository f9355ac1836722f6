//! `capstan caption` and `capstan match`: models on the user's own pictures.

use std::path::Path;

use capstan_model::blip::{Med, MedParts};
use capstan_model::generate::{Decoding, Strategy, generate};
use capstan_model::{
    Clip, ComputePool, Device, DeviceSpec, ImagePreprocess, TokenBatch, Tokenizer,
};
use serde_json::json;

use crate::args::{Caption, Match};
use crate::error::{Exit, ExpectedError, OrExit};

/// Prints one caption per picture.
///
/// # Errors
/// Foreign input, naming the picture or the model folder and the reason.
pub fn caption(args: &Caption) -> Result<(), ExpectedError> {
    let (pool, device) = compute(&args.device)?;
    pool.install(|| {
        let tokenizer = Tokenizer::load(&args.model).or_exit(Exit::ForeignInput)?;
        let preprocess = ImagePreprocess::load(&args.model).or_exit(Exit::ForeignInput)?;
        let med =
            Med::load(&args.model, MedParts::Captioner, &device).or_exit(Exit::ForeignInput)?;
        let special = tokenizer.special();
        let strategy = match args.beams {
            0 => {
                return Err(ExpectedError::new(
                    Exit::Usage,
                    "--beams must be at least 1",
                ));
            }
            1 => Strategy::Greedy,
            beams => Strategy::Beam {
                beams,
                length_penalty: 1.0,
            },
        };
        let positions = med.config().text_config.max_position_embeddings;
        let decoding = Decoding {
            strategy,
            min_tokens: 1,
            max_tokens: args.max_tokens.min(positions),
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            banned: vec![
                special.pad,
                special.unk,
                special.cls,
                special.dec,
                special.enc,
            ],
        };
        for path in &args.images {
            let pixels = preprocess.batch(pixels(&preprocess, path)?, &device);
            let memory = med.memory(&med.image_embeds(pixels));
            let texts =
                generate(&med, &memory, &[], &decoding, &|_, _| 0.0).or_exit(Exit::ForeignInput)?;
            let text = texts
                .first()
                .map(|text| tokenizer.decode(&text.ids))
                .unwrap_or_default();
            let image = path.display().to_string();
            if args.json {
                println!("{}", json!({"image": image, "caption": text}));
            } else {
                println!("{image}: {text}");
            }
        }
        Ok(())
    })
}

/// Prints how well each text matches the picture.
///
/// # Errors
/// As [`caption`].
pub fn matching(args: &Match) -> Result<(), ExpectedError> {
    let (pool, device) = compute(&args.device)?;
    pool.install(|| {
        let tokenizer = Tokenizer::load(&args.model).or_exit(Exit::ForeignInput)?;
        let preprocess = ImagePreprocess::load(&args.model).or_exit(Exit::ForeignInput)?;
        let pixels = preprocess.batch(pixels(&preprocess, &args.image)?, &device);
        let scores = if is_clip(&args.model)? {
            let clip = Clip::load(&args.model, &device).or_exit(Exit::ForeignInput)?;
            let positions = clip.config().text_config.max_position_embeddings;
            let texts = tokens(&tokenizer, &args.texts, positions);
            let cosines = clip
                .text_features(&texts)
                .matmul(clip.image_features(pixels).transpose());
            floats(cosines)?
                .into_iter()
                .map(|itc| Score { itc, itm: None })
                .collect()
        } else {
            blip_scores(args, &tokenizer, pixels, &device)?
        };
        print_scores(args, &scores);
        Ok(())
    })
}

/// Cosine, and probability of a match where the model has an ITM head.
struct Score {
    itc: f32,
    itm: Option<f32>,
}

fn blip_scores(
    args: &Match,
    tokenizer: &Tokenizer,
    pixels: capstan_model::Tensor<4>,
    device: &Device,
) -> Result<Vec<Score>, ExpectedError> {
    let med = Med::load(&args.model, MedParts::Filter, device).or_exit(Exit::ForeignInput)?;
    let positions = med.config().text_config.max_position_embeddings;
    let texts = tokens(tokenizer, &args.texts, positions);
    let images = med.image_embeds(pixels);
    let cosines = floats(
        med.text_features(&texts)
            .matmul(med.image_features(&images).transpose()),
    )?;
    let memory = med.memory(&images);
    let logits = floats(med.itm_logits(&memory, &texts, &vec![0; args.texts.len()]))?;
    let score = |(itc, logits): (f32, &[f32])| {
        let itm = 1.0 / (1.0 + (logits[0] - logits[1]).exp());
        Score {
            itc,
            itm: Some(itm),
        }
    };
    Ok(cosines
        .into_iter()
        .zip(logits.chunks_exact(2))
        .map(score)
        .collect())
}

fn print_scores(args: &Match, scores: &[Score]) {
    for (text, score) in args.texts.iter().zip(scores) {
        if args.json {
            println!(
                "{}",
                json!({"text": text, "itc": score.itc, "itm": score.itm})
            );
            continue;
        }
        let itm = score
            .itm
            .map_or_else(String::new, |itm| format!("  match {:5.1} %", itm * 100.0));
        println!("cosine {:6.3}{itm}  {text}", score.itc);
    }
}

fn tokens(tokenizer: &Tokenizer, texts: &[String], max_tokens: usize) -> TokenBatch {
    let rows: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.encode(text, max_tokens))
        .collect();
    TokenBatch::new(&rows, tokenizer.special().pad)
}

fn pixels(preprocess: &ImagePreprocess, path: &Path) -> Result<Vec<f32>, ExpectedError> {
    let foreign = |error: &dyn std::error::Error| {
        ExpectedError::about(Exit::ForeignInput, path.display(), error)
    };
    let bytes = std::fs::read(path).map_err(|error| foreign(&error))?;
    preprocess.pixels(&bytes).map_err(|error| foreign(&error))
}

/// Whether the folder holds a CLIP model, by its configuration.
fn is_clip(folder: &Path) -> Result<bool, ExpectedError> {
    let path = folder.join(capstan_model::folder::CONFIG_FILE);
    // The configurations of a pre-trained MED are one folder deeper.
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(false);
    };
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        ExpectedError::new(Exit::ForeignInput, format!("{}: {error}", path.display()))
    })?;
    Ok(config["model_type"] == "clip")
}

fn floats<const D: usize>(tensor: capstan_model::Tensor<D>) -> Result<Vec<f32>, ExpectedError> {
    tensor
        .into_data()
        .try_to_vec::<f32>()
        .map_err(|error| ExpectedError::new(Exit::RunFailed, format!("{error:?}")))
}

/// A pool of every core, and the requested device.
fn compute(device: &str) -> Result<(ComputePool, Device), ExpectedError> {
    let spec: DeviceSpec = device.parse().or_exit(Exit::Usage)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = ComputePool::new(threads).or_exit(Exit::RunFailed)?;
    Ok((pool, spec.open().or_exit(Exit::Usage)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &Path) -> String {
        let error = pixels(&ImagePreprocess::new(64), path).unwrap_err();
        assert_eq!(error.exit(), Exit::ForeignInput);
        error.to_string()
    }

    #[test]
    fn a_text_file_in_place_of_a_picture_is_named_with_its_reason_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a picture").unwrap();
        assert_eq!(
            line(&path),
            format!(
                "{}: the picture cannot be decoded: The image format could not be determined",
                path.display()
            )
        );
    }

    #[test]
    fn a_picture_that_is_missing_is_named_with_the_reason_of_the_system() {
        assert_eq!(
            line(Path::new("/no/such/picture.png")),
            "/no/such/picture.png: No such file or directory (os error 2)"
        );
    }
}
