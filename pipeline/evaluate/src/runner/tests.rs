//! The runner on small models with drawn weights, and the blind test on synthetic scores.

use std::cell::RefCell;
use std::path::Path;

use capstan_model::config::{BlipConfig, ClipConfig, Sizes};
use capstan_model::folder::Assets;
use capstan_model::{
    Clip, ComputePool, Device, DeviceSpec, Embed, ImagePreprocess, InitRecipe, Med, MedParts,
    Model, Network, TokenBatch, Tokenizer,
};
use capstan_plan::FailureKind;
use capstan_plan::id::PairId;
use capstan_plan::results::Evaluation;
use capstan_plan::row::{Origin, Pair, Text};
use capstan_plan::stage;

use crate::measurement::{Measurement, Retrieval, ZeroShot};
use crate::{Error, Models, Scores, Sets, blind, evaluate, retrieval};

mod memory;

const SIDE: usize = 16;
const COLOURS: [&str; 4] = ["red", "green", "blue", "white"];
const THINGS: [&str; 3] = ["ball", "crate", "ring"];

fn sizes() -> Sizes {
    Sizes {
        image_size: SIDE,
        patch_size: 8,
        width: 16,
        heads: 2,
        vision_layers: 1,
        text_layers: 2,
        projection: 8,
        max_text_tokens: 12,
    }
}

fn recipe() -> InitRecipe {
    InitRecipe {
        linear_gain: 2.0,
        embedding_std: 1.0,
        ..InitRecipe::default()
    }
}

fn tokenizer() -> Tokenizer {
    let texts = COLOURS
        .iter()
        .flat_map(|c| THINGS.map(|t| format!("there is a {c} {t} here")));
    Tokenizer::train(texts, 1, 300).unwrap()
}

fn save_clip(folder: &Path) -> (Clip, Tokenizer) {
    let tokenizer = tokenizer();
    let config = ClipConfig::new(&sizes(), tokenizer.len(), &tokenizer.special()).unwrap();
    let mut clip = Clip::new(config, &Device::flex());
    clip.initialise(5, &recipe());
    let preprocess = ImagePreprocess::new(SIDE);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    clip.save(folder, &assets).unwrap();
    (clip, tokenizer)
}

fn save_med(folder: &Path, parts: MedParts, seed: u64) {
    let tokenizer = tokenizer();
    let config = BlipConfig::new(&sizes(), tokenizer.len(), &tokenizer.special()).unwrap();
    let mut med = Med::new(config, MedParts::Both, &Device::flex());
    med.initialise(seed, &recipe());
    let preprocess = ImagePreprocess::new(SIDE);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    match parts {
        MedParts::Both => med.save(folder, &assets).unwrap(),
        parts => med.save_as(folder, parts, &assets).unwrap(),
    }
}

fn pair(number: usize, texts: &[String]) -> Pair {
    let pair_id = PairId::new(&format!("file:{number}.png"), "");
    let picture = image::RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        image::Rgb([0, 85, 170].map(|c| ((x * 31 + y * 17 + number as u32 * 97 + c) % 256) as u8))
    });
    let mut image = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut image, image::ImageFormat::Png)
        .unwrap();
    Pair {
        pair_id,
        image: image.into_inner(),
        width: SIDE as u32,
        height: SIDE as u32,
        original_width: SIDE as u32,
        original_height: SIDE as u32,
        sha256: [0; 32],
        phash: 0,
        image_url: format!("file:{number}.png"),
        page_url: String::new(),
        archive_ref: None,
        fetched_at_ms: 0,
        opt_out: vec![],
        policy_version: 1,
        licence: None,
        attribution: None,
        texts: texts
            .iter()
            .map(|text| Text::new(&pair_id, Origin::Human, text))
            .collect(),
    }
}

fn name(number: usize) -> String {
    format!("{} {}", COLOURS[number % 4], THINGS[number / 4 % 3])
}

fn sets() -> Sets {
    let described = |number: usize| {
        let name = name(number);
        pair(
            number,
            &[
                format!("a {name}"),
                format!("there is a {name} here"),
                format!("{name} {number}"),
            ],
        )
    };
    let set: Vec<Pair> = (0..40).map(described).collect();
    let zero_shot = (0..45)
        .map(|number| pair(100 + number, &[name(number)]))
        .collect();
    Sets {
        retrieval: set.clone(),
        captioning: set,
        zero_shot,
    }
}

fn config(blip: bool) -> stage::Evaluate {
    stage::Evaluate {
        model: "model".into(),
        captioner: None,
        retrieval: Some(stage::Retrieval {
            from: "evaluation".into(),
            rerank: 4,
        }),
        captioning: blip.then(|| stage::Captioning {
            from: "evaluation".into(),
            decoding: stage::Decoding {
                prompt: String::new(),
                choose: stage::Strategy::Beam { beams: 3 },
                min_tokens: 2,
                max_tokens: 30,
                repetition_penalty: 1.0,
                no_repeat_ngram: 0,
            },
        }),
        zero_shot: Some(stage::ZeroShot {
            from: "zero_shot".into(),
            templates: vec!["a {}".into(), "there is a {} here".into()],
        }),
        blind: true,
    }
}

fn run(
    config: &stage::Evaluate,
    models: Models<'_>,
    sets: &Sets,
    threads: usize,
) -> Result<Evaluation, Error> {
    let pool = ComputePool::new(threads).unwrap();
    evaluate(config, models, sets, 1, DeviceSpec::Cpu, &pool, &|_, _| {
        true
    })
}

#[test]
fn a_clip_scores_agree_with_its_features() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, tokenizer) = save_clip(folder.path());
    let models = Models {
        model: folder.path(),
        captioner: None,
    };
    let evaluation = run(&config(false), models, &sets(), 2).unwrap();
    let sighted = &evaluation.sighted;
    assert!(sighted.retrieval_reranked.is_none() && sighted.captioning.is_none());

    // The same with one picture and one text per batch. Only the metric is shared.
    let sets = sets();
    let preprocess = ImagePreprocess::new(SIDE);
    let (mut values, mut owner) = (Vec::new(), Vec::new());
    for (number, picture) in sets.retrieval.iter().enumerate() {
        let pixels = preprocess.pixels(&picture.image).unwrap();
        let image = clip.image_features(&clip.encode(preprocess.batch(pixels, &Device::flex())));
        owner.extend(picture.texts.iter().map(|_| number));
        for text in sets.retrieval.iter().flat_map(|pair| &pair.texts) {
            let batch = TokenBatch::new(&[tokenizer.encode(&text.text, 12)], 0);
            let cosine = (image.clone() * clip.text_features(&batch)).sum();
            values.push(cosine.into_scalar::<f32>());
        }
    }
    let scores = Scores::new(40, 120, values);
    let by_hand = retrieval::figures(&scores, &scores, &owner);
    let figures = sighted.retrieval.unwrap();
    for (ours, theirs) in [
        (figures.tr_at_1, by_hand.tr_at_1),
        (figures.tr_at_5, by_hand.tr_at_5),
        (figures.ir_at_1, by_hand.ir_at_1),
        (figures.ir_at_5, by_hand.ir_at_5),
    ] {
        // Rounding may change a rank where scores almost tie.
        assert!(
            (ours - theirs).abs() <= 2.5,
            "{figures:?}, one by one {by_hand:?}"
        );
    }
    assert!(figures.tr_at_5 > 0.0, "{figures:?}");
    assert!(sighted.zero_shot.is_some() && evaluation.blind.unwrap().zero_shot.is_some());
}

#[test]
fn a_blip_has_all_figures() {
    let (model, fine_tuned) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save_med(model.path(), MedParts::Both, 5);
    save_med(fine_tuned.path(), MedParts::Captioner, 6);
    let models = Models {
        model: model.path(),
        captioner: Some(fine_tuned.path()),
    };
    let evaluation = run(&config(true), models, &sets(), 2).unwrap();
    for figures in [&evaluation.sighted, evaluation.blind.as_ref().unwrap()] {
        let retrieval = [
            figures.retrieval.unwrap(),
            figures.retrieval_reranked.unwrap(),
        ];
        for recall in retrieval {
            for value in [
                recall.tr_at_1,
                recall.tr_at_5,
                recall.ir_at_1,
                recall.ir_at_5,
            ] {
                assert!((0.0..=100.0).contains(&value), "{recall:?}");
            }
        }
        let captioning = [
            figures.captioning.unwrap(),
            figures.captioning_fine_tuned.unwrap(),
        ];
        for scores in captioning {
            assert!(
                scores.cider >= 0.0 && (0.0..=100.0).contains(&scores.bleu4),
                "{scores:?}"
            );
        }
        assert!((0.0..=100.0).contains(&figures.zero_shot.unwrap().accuracy));
    }
    assert_ne!(
        evaluation.sighted.captioning,
        evaluation.sighted.captioning_fine_tuned
    );
    assert_ne!(
        evaluation.sighted.retrieval,
        evaluation.sighted.retrieval_reranked
    );
    // Neither the number of threads nor a separate encoding of the captioning set changes a figure.
    assert_eq!(run(&config(true), models, &sets(), 1).unwrap(), evaluation);
    let mut apart = config(true);
    apart.retrieval = None;
    apart.zero_shot = None;
    let apart = run(&apart, models, &sets(), 2).unwrap();
    assert_eq!(apart.sighted.captioning, evaluation.sighted.captioning);
    assert_eq!(
        apart.blind.unwrap().captioning,
        evaluation.blind.unwrap().captioning
    );
    assert!(apart.sighted.retrieval.is_none() && apart.sighted.zero_shot.is_none());
}

#[test]
fn a_perfect_model_scores_100_sighted_and_0_blind() {
    let identity = |n: usize| {
        let mut scores = Scores::filled(n, n, 0.0);
        (0..n).for_each(|i| scores.set(i, i, 1.0));
        scores
    };
    let captions: Vec<String> = (0..30)
        .map(|i| format!("alpha{i} beta{i} gamma{i} delta{i}"))
        .collect();
    let measurement = Measurement {
        retrieval: Some(Retrieval {
            owner: (0..30).collect(),
            cosine: identity(30),
            reranked: None,
        }),
        zero_shot: Some(ZeroShot {
            class: (0..20).collect(),
            scores: identity(20),
        }),
        references: captions
            .iter()
            .map(|caption| vec![caption.clone()])
            .collect(),
        captions: Some(captions),
        fine_tuned: None,
    };
    let sighted = measurement.figures(&|n| (0..n).collect());
    assert_eq!(sighted.retrieval.unwrap().mean_at_1(), 100.0);
    assert_eq!(sighted.zero_shot.unwrap().accuracy, 100.0);
    assert!((sighted.captioning.unwrap().cider - 1000.0).abs() < 1e-6);
    let blind = measurement.figures(&|n| blind::derangement(3, n).unwrap());
    assert_eq!(blind.retrieval.unwrap().mean_at_1(), 0.0);
    assert_eq!(blind.zero_shot.unwrap().accuracy, 0.0);
    assert_eq!(blind.captioning.unwrap().cider, 0.0);
}

#[test]
fn the_missing_part_of_a_model_or_set_is_named() {
    let (clip, captioner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save_clip(clip.path());
    save_med(captioner.path(), MedParts::Captioner, 5);
    let clip = Models {
        model: clip.path(),
        captioner: None,
    };
    let of_captioner = Models {
        model: captioner.path(),
        captioner: None,
    };
    let refused = |config: &stage::Evaluate, models, sets: &Sets| {
        let error = run(config, models, sets, 1).unwrap_err();
        assert_eq!(error.kind(), FailureKind::BadInput, "{error}");
        error
    };
    let error = refused(&config(true), clip, &sets());
    assert!(
        matches!(
            error,
            Error::Lacks {
                part: "decoder",
                ..
            }
        ),
        "{error}"
    );
    let error = refused(&config(true), of_captioner, &sets());
    assert!(
        matches!(
            error,
            Error::Lacks {
                part: "text encoder",
                ..
            }
        ),
        "{error}"
    );
    let fine_tuned = Models {
        captioner: Some(captioner.path()),
        ..clip
    };
    assert!(matches!(
        refused(&config(false), fine_tuned, &sets()),
        Error::NoCaptioning
    ));
    let nowhere = Models {
        model: Path::new("/nowhere"),
        captioner: None,
    };
    assert!(
        refused(&config(false), nowhere, &sets())
            .to_string()
            .contains("/nowhere")
    );

    let with = |change: fn(&mut Sets)| {
        let mut sets = sets();
        change(&mut sets);
        refused(&config(false), clip, &sets)
    };
    assert!(matches!(
        with(|s| s.retrieval.clear()),
        Error::EmptySet { set: "retrieval" }
    ));
    assert!(matches!(
        with(|s| s.zero_shot.truncate(1)),
        Error::Blind { set: "zero-shot" }
    ));
    for (clear, set, pictures) in [
        (
            (|s| s.retrieval.iter_mut().for_each(|pair| pair.texts.clear())) as fn(&mut Sets),
            "retrieval",
            40,
        ),
        (
            |s| s.zero_shot.iter_mut().for_each(|pair| pair.texts.clear()),
            "zero-shot",
            45,
        ),
    ] {
        let error = with(clear);
        assert_eq!(
            error.to_string(),
            format!(
                "none of the {pictures} pictures of the {set} set has a reference text: give a set with \
                 reference texts"
            )
        );
    }
    assert!(matches!(
        with(|s| s.zero_shot[3].texts = s.retrieval[3].texts.clone()),
        Error::Class { texts: 3, .. }
    ));
    let mut plain = config(false);
    plain
        .zero_shot
        .as_mut()
        .unwrap()
        .templates
        .push("a photo".into());
    assert!(matches!(refused(&plain, clip, &sets()), Error::Templates));
    let mut broken = sets();
    broken.retrieval[7].image.truncate(50);
    let error = run(&config(false), clip, &broken, 1).unwrap_err();
    assert_eq!(error.kind(), FailureKind::PoisonShard);
    assert!(
        error
            .to_string()
            .contains(&broken.retrieval[7].pair_id.to_string()),
        "{error}"
    );
}

#[test]
fn a_picture_without_a_text_changes_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    save_med(folder.path(), MedParts::Both, 5);
    let models = Models {
        model: folder.path(),
        captioner: None,
    };
    let mut with_textless = sets();
    for (number, set) in [
        &mut with_textless.retrieval,
        &mut with_textless.captioning,
        &mut with_textless.zero_shot,
    ]
    .into_iter()
    .enumerate()
    {
        set.insert(3, pair(900 + number, &[]));
        set.push(pair(910 + number, &[]));
    }
    let plain = run(&config(true), models, &sets(), 1).unwrap();
    let found = run(&config(true), models, &with_textless, 1).unwrap();
    assert_eq!(found, plain);
}

#[test]
fn progress_reaches_its_total_and_can_stop() {
    let folder = tempfile::tempdir().unwrap();
    save_med(folder.path(), MedParts::Both, 5);
    let models = Models {
        model: folder.path(),
        captioner: None,
    };
    let pool = ComputePool::new(2).unwrap();
    let reported = RefCell::new(Vec::new());
    let report = |done: u64, total: u64| {
        reported.borrow_mut().push((done, total));
        true
    };
    evaluate(
        &config(true),
        models,
        &sets(),
        1,
        DeviceSpec::Cpu,
        &pool,
        &report,
    )
    .unwrap();
    let reported = reported.into_inner();
    assert!(reported.is_sorted() && reported.len() > 5, "{reported:?}");
    let last = reported.last().unwrap();
    assert_eq!(last.0, last.1, "{reported:?}");
    let stopped = evaluate(
        &config(true),
        models,
        &sets(),
        1,
        DeviceSpec::Cpu,
        &pool,
        &|_, _| false,
    );
    assert!(matches!(stopped.unwrap_err(), Error::Cancelled));
}
