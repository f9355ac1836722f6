//! `capstan caption`: a captioner on the user's own pictures.

use std::path::Path;

use capstan_model::generate::{Decoding, Strategy, generate};
use capstan_model::{MedParts, Tensor};
use serde_json::json;

use super::pictures::{Loaded, expand};
use crate::args::Caption;
use crate::error::{Exit, ExpectedError, OrExit};

/// Prints one caption per picture, or writes it beside the picture.
///
/// # Errors
/// Foreign input, naming the picture or the model folder and the reason.
pub fn caption(args: &Caption) -> Result<(), ExpectedError> {
    let pictures = expand(&args.images)?;
    let loaded = Loaded::open(&args.of_model, Some(MedParts::Captioner))?;
    let prompt = loaded.model.prompt(&args.prompt);
    let decoding = decoding(args, &loaded, &prompt)?;
    loaded.each_batch(&pictures, args.of_model.batch, |paths, pixels| {
        let texts = texts(&loaded, pixels, &prompt, &decoding)?;
        for (path, text) in paths.iter().zip(texts) {
            show(args, path, &text)?;
        }
        Ok(())
    })
}

fn texts(
    loaded: &Loaded,
    pixels: Tensor<4>,
    prompt: &[u32],
    decoding: &Decoding,
) -> Result<Vec<String>, ExpectedError> {
    let network = &loaded.model.network;
    let writer = network.generator().ok_or_else(|| {
        ExpectedError::new(
            Exit::ForeignInput,
            format!("a {} writes no captions", network.role()),
        )
    })?;
    let memory = writer.memory(&network.encode(pixels));
    let prompts = vec![prompt.to_vec(); memory.pictures()];
    let texts = generate(writer.decoder(), &memory, &prompts, decoding, &|_, _| 0.0)
        .or_exit(Exit::ForeignInput)?;
    let tokenizer = &loaded.model.tokenizer;
    Ok(texts
        .iter()
        .map(|text| tokenizer.decode(&text.ids))
        .collect())
}

fn decoding(args: &Caption, loaded: &Loaded, prompt: &[u32]) -> Result<Decoding, ExpectedError> {
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
    let decoding = Decoding {
        strategy,
        min_tokens: args.min_tokens,
        max_tokens: args.max_tokens,
        repetition_penalty: args.repetition_penalty,
        no_repeat_ngram: 0,
        banned: Vec::new(),
    };
    Ok(loaded.model.limited(decoding, prompt))
}

fn show(args: &Caption, path: &Path, text: &str) -> Result<(), ExpectedError> {
    if args.write_txt {
        let beside = path.with_extension("txt");
        return std::fs::write(&beside, format!("{text}\n"))
            .map_err(|error| ExpectedError::about(Exit::RunFailed, beside.display(), &error));
    }
    let image = path.display().to_string();
    match args.of_model.json {
        true => println!("{}", json!({"image": image, "caption": text})),
        false => println!("{image}: {text}"),
    }
    Ok(())
}
