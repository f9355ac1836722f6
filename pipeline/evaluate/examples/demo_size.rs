//! Times an evaluation of the demo's size (250 pictures with 5 texts each, 240 zero-shot
//! pictures, 24 classes under 8 templates, beam 3, re-ranking of 8) on drawn weights:
//!
//! `cargo run --release -p capstan-evaluate --example demo_size -- [THREADS]`
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use std::error::Error;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use capstan_evaluate::{Models, Sets, evaluate};
use capstan_model::config::{BlipConfig, ClipConfig, Sizes};
use capstan_model::folder::Assets;
use capstan_model::{
    Clip, ComputePool, Device, DeviceSpec, ImagePreprocess, InitRecipe, Med, MedParts, Model,
    Network, Tokenizer,
};
use capstan_plan::id::PairId;
use capstan_plan::row::{Origin, Pair, Text};
use capstan_plan::stage;

const SIDE: u32 = 64;
const COLOURS: [&str; 6] = ["red", "green", "blue", "yellow", "white", "black"];
const THINGS: [&str; 4] = ["ball", "crate", "ring", "clock"];
const PLACES: [&str; 6] = ["grass", "sand", "wood", "brick", "water", "snow"];

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let sets = Sets {
        retrieval: described(0)?,
        captioning: described(0)?,
        zero_shot: (0..240)
            .map(|n| pair(1000 + n, &[class(n)]))
            .collect::<Result<_, _>>()?,
    };
    let texts: Vec<&str> = sets
        .retrieval
        .iter()
        .flat_map(|pair| &pair.texts)
        .map(|text| text.text.as_str())
        .collect();
    let tokenizer = Tokenizer::train(texts, 1, 1000)?;
    let (clip, blip) = (folder.path().join("clip"), folder.path().join("blip"));
    save(&tokenizer, &clip, &blip)?;
    for (name, path, captions) in [("CLIP", &clip, false), ("BLIP", &blip, true)] {
        let models = Models {
            model: path,
            captioner: captions.then_some(path),
        };
        let pool = ComputePool::new(threads)?;
        let began = Instant::now();
        let went_on = |done: u64, total: u64| {
            eprintln!(
                "{name}: {done} of {total} batches after {:.2} s",
                began.elapsed().as_secs_f64()
            );
            true
        };
        let figures = evaluate(
            &config(captions),
            models,
            &sets,
            1,
            DeviceSpec::Cpu,
            &pool,
            &went_on,
        )?;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{name}: {seconds:.2} s on {threads} threads; {:?}",
            figures.sighted.retrieval
        );
    }
    Ok(())
}

fn save(tokenizer: &Tokenizer, clip: &Path, blip: &Path) -> Result<(), Box<dyn Error>> {
    let sizes = Sizes {
        image_size: SIDE as usize,
        patch_size: 16,
        width: 64,
        heads: 4,
        vision_layers: 3,
        text_layers: 2,
        projection: 64,
        max_text_tokens: 20,
    };
    let preprocess = ImagePreprocess::new(SIDE as usize);
    let assets = Assets {
        tokenizer: Some(tokenizer),
        preprocess: Some(&preprocess),
    };
    let (tokens, special, device) = (tokenizer.len(), tokenizer.special(), Device::flex());
    let mut model = Clip::new(ClipConfig::new(&sizes, tokens, &special)?, &device);
    model.initialise(1, &InitRecipe::default());
    model.save(clip, &assets)?;
    let mut model = Med::new(
        BlipConfig::new(&sizes, tokens, &special)?,
        MedParts::Both,
        &device,
    );
    model.initialise(1, &InitRecipe::default());
    Ok(model.save(blip, &assets)?)
}

fn config(blip: bool) -> stage::Evaluate {
    let decoding = stage::Decoding {
        prompt: String::new(),
        choose: stage::Strategy::Beam { beams: 3 },
        min_tokens: 4,
        max_tokens: 19,
        repetition_penalty: 1.0,
        no_repeat_ngram: 0,
    };
    let templates = [
        "a {}",
        "a picture of a {}",
        "there is a {}",
        "a big {}",
        "a small {}",
        "one {}",
        "photo of a {}",
        "a {} on the ground",
    ];
    stage::Evaluate {
        model: "model".into(),
        captioner: blip.then(|| "captioner".into()),
        retrieval: Some(stage::Retrieval {
            from: "evaluation".into(),
            rerank: 8,
        }),
        captioning: blip.then(|| stage::Captioning {
            from: "evaluation".into(),
            decoding,
        }),
        zero_shot: Some(stage::ZeroShot {
            from: "zero_shot".into(),
            templates: templates.map(str::to_owned).to_vec(),
        }),
        blind: true,
    }
}

fn class(number: usize) -> String {
    format!("{} {}", COLOURS[number % 6], THINGS[number / 6 % 4])
}

fn described(first: usize) -> Result<Vec<Pair>, Box<dyn Error>> {
    let texts = |n: usize| {
        let (a, b, place) = (class(n), class(n * 7 + 3), PLACES[n % 6]);
        [
            format!("a {a} and a {b}"),
            format!("there is a {a} left of a {b} on the {place}"),
            format!("{b} beside {a}"),
            format!("a picture of a {a} with a small {b} in the background"),
            format!("one {a} one {b} on {place}"),
        ]
    };
    (first..first + 250).map(|n| pair(n, &texts(n))).collect()
}

fn pair(number: usize, texts: &[String]) -> Result<Pair, Box<dyn Error>> {
    let pair_id = PairId::new(&format!("file:{number}.png"), "");
    let picture = image::RgbImage::from_fn(SIDE, SIDE, |x, y| {
        image::Rgb([0, 85, 170].map(|c| ((x * 31 + y * 17 + number as u32 * 97 + c) % 256) as u8))
    });
    let mut image = Cursor::new(Vec::new());
    picture.write_to(&mut image, image::ImageFormat::Png)?;
    Ok(Pair {
        pair_id,
        image: image.into_inner(),
        width: SIDE,
        height: SIDE,
        original_width: SIDE,
        original_height: SIDE,
        sha256: [0; 32],
        phash: 0,
        image_url: format!("file:{number}.png"),
        page_url: String::new(),
        archive_ref: None,
        fetched_at_ms: 0,
        opt_out: Vec::new(),
        policy_version: 1,
        licence: None,
        attribution: None,
        texts: texts
            .iter()
            .map(|text| Text::new(&pair_id, Origin::Human, text))
            .collect(),
    })
}
