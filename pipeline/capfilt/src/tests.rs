//! Captions and verdicts of a tiny model with random weights, over synthetic rows.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use capstan_dataset::view::ViewRow;
use capstan_model::config::{BlipConfig, Sizes};
use capstan_model::folder::Assets;
use capstan_model::{
    ComputePool, Device, DeviceSpec, Embed, ImagePreprocess, InitRecipe, Look, Match, Med,
    MedParts, Model, Network, TokenBatch, Tokenizer,
};
use capstan_plan::FailureKind;
use capstan_plan::id::{Digest, ModelDigest, PairId};
use capstan_plan::row::{Captions, Origin, Pair, Text, Verdicts};
use capstan_plan::stage;

use crate::{Captioner, Error, Filter};

const TEXTS: [&str; 4] = [
    "a red ball on the grass",
    "two blue crates",
    "a ring above a clock",
    "IMG_1234.jpg",
];
const SIDE: usize = 16;

fn digest() -> ModelDigest {
    ModelDigest(Digest::of(b"model"))
}

/// Writes a pre-trained MED with its vocabulary.
fn save_model(folder: &Path) -> (Med, Tokenizer) {
    let tokenizer = Tokenizer::train(TEXTS, 1, 300).unwrap();
    let sizes = Sizes {
        image_size: SIDE,
        patch_size: 8,
        width: 16,
        heads: 2,
        vision_layers: 1,
        text_layers: 2,
        projection: 8,
        max_text_tokens: 12,
    };
    let config = BlipConfig::new(&sizes, tokenizer.len(), &tokenizer.special()).unwrap();
    let mut med = Med::new(config, MedParts::Both, &Device::flex());
    // Large weights, so that different pictures and texts give different outputs.
    let recipe = InitRecipe {
        linear_gain: 2.0,
        embedding_std: 1.0,
        ..InitRecipe::default()
    };
    med.initialise(7, &recipe);
    let preprocess = ImagePreprocess::new(SIDE);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    med.save(folder, &assets).unwrap();
    (med, tokenizer)
}

fn png(seed: u32) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        image::Rgb([0, 85, 170].map(|c| ((x * 31 + y * 17 + seed * 97 + c) % 256) as u8))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A row with an alt, an equal title, another caption, a human and a synthetic text.
fn row(number: u32, keep: bool) -> ViewRow {
    let pair_id = PairId::new(&format!("http://a.test/{number}.png"), "http://a.test/");
    let of = |shift: u32| TEXTS[(number + shift) as usize % TEXTS.len()];
    let texts = vec![
        Text::new(&pair_id, Origin::Alt, of(0)),
        Text::new(&pair_id, Origin::Title, of(0)),
        Text::new(&pair_id, Origin::Caption, of(1)),
        Text::new(&pair_id, Origin::Human, of(2)),
    ];
    let kept_texts = if keep {
        texts.iter().map(|text| text.text_id).collect()
    } else {
        vec![]
    };
    let pair = Pair {
        pair_id,
        image: png(number),
        width: SIDE as u32,
        height: SIDE as u32,
        original_width: SIDE as u32,
        original_height: SIDE as u32,
        sha256: [0; 32],
        phash: 0,
        image_url: format!("http://a.test/{number}.png"),
        page_url: "http://a.test/".to_owned(),
        archive_ref: None,
        fetched_at_ms: 0,
        opt_out: vec![],
        policy_version: 1,
        licence: None,
        attribution: None,
        texts,
    };
    ViewRow {
        row: number,
        pair,
        keep,
        reason: (!keep).then(|| "no_text".to_owned()),
        kept_texts,
        queries: vec![],
        synthetic: vec![Text::new(&pair_id, Origin::Synthetic, of(3))],
        verdicts: vec![],
    }
}

/// Eleven rows; curation drops the fourth and the last.
fn rows() -> Vec<ViewRow> {
    (0..11)
        .map(|number| row(number, number != 3 && number != 10))
        .collect()
}

fn caption_config(batch: usize, captions_per_image: usize) -> stage::Caption {
    stage::Caption {
        from: "curate".into(),
        model: "captioner".into(),
        decoding: stage::Decoding {
            prompt: String::new(),
            choose: stage::Strategy::Nucleus {
                top_p: 0.9,
                temperature: 1.0,
                top_k: 0,
            },
            min_tokens: 2,
            max_tokens: 30,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
        },
        batch,
        captions_per_image,
    }
}

fn filter_config(batch: usize, threshold: f32) -> stage::Filter {
    stage::Filter {
        from: "caption".into(),
        model: "filter".into(),
        threshold,
        batch,
        text_tokens: None,
    }
}

fn go_on(_done: u64) -> bool {
    true
}

fn caption(folder: &Path, threads: usize, config: &stage::Caption, seed: u64) -> Vec<Captions> {
    let pool = ComputePool::new(threads).unwrap();
    let captioner = Captioner::load(folder, digest(), DeviceSpec::Cpu, &pool).unwrap();
    captioner
        .caption_shard(&pool, config, seed, &rows(), &go_on)
        .unwrap()
}

fn judge(folder: &Path, threads: usize, config: &stage::Filter) -> Vec<Verdicts> {
    let pool = ComputePool::new(threads).unwrap();
    let filter = Filter::load(folder, digest(), DeviceSpec::Cpu, &pool).unwrap();
    filter.judge_shard(&pool, config, &rows(), &go_on).unwrap()
}

#[test]
fn every_row_has_its_captions() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let captions = caption(folder.path(), 2, &caption_config(4, 1), 1);
    assert_eq!(captions.len(), 11);
    for (row, captions) in rows().iter().zip(&captions) {
        assert_eq!(captions.pair_id, row.pair.pair_id);
        assert_eq!(captions.model, digest());
        assert_eq!(
            captions.texts.len(),
            usize::from(row.keep),
            "row {}",
            row.row
        );
        for text in &captions.texts {
            let again = Text::new(&row.pair.pair_id, Origin::Synthetic, text.text.clone());
            assert_eq!(*text, again);
            assert!(
                !text.text.is_empty() && !text.text.contains('['),
                "{}",
                text.text
            );
        }
    }
    let distinct: BTreeSet<&str> = captions
        .iter()
        .flat_map(|row| &row.texts)
        .map(|text| text.text.as_str())
        .collect();
    assert!(distinct.len() > 5, "nine pictures got {distinct:?}");
}

#[test]
fn captions_do_not_depend_on_batches_or_threads() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let reference = caption(folder.path(), 1, &caption_config(64, 2), 1);
    for (threads, batch) in [(1, 1), (2, 1), (2, 3), (3, 64)] {
        let other = caption(folder.path(), threads, &caption_config(batch, 2), 1);
        assert_eq!(other, reference, "{threads} threads, batches of {batch}");
    }
    assert_ne!(
        caption(folder.path(), 1, &caption_config(64, 2), 2),
        reference
    );
}

#[test]
fn draws_are_keyed_by_pair_and_ordinal() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let one = caption(folder.path(), 1, &caption_config(64, 1), 1);
    let three = caption(folder.path(), 1, &caption_config(64, 3), 1);
    let mut texts = 0;
    for (one, three) in one.iter().zip(&three) {
        assert_eq!(one.texts[..], three.texts[..one.texts.len()]);
        let distinct: BTreeSet<&str> = three.texts.iter().map(|text| text.text.as_str()).collect();
        assert_eq!(distinct.len(), three.texts.len(), "a text is given once");
        texts += three.texts.len();
    }
    assert!(texts > 15, "{texts} texts of nine pictures");
    // The captions of a row do not depend on the other rows.
    let pool = ComputePool::new(1).unwrap();
    let captioner = Captioner::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let alone = captioner
        .caption_shard(&pool, &caption_config(64, 3), 1, &rows()[5..6], &go_on)
        .unwrap();
    assert_eq!(alone[0], three[5]);
}

#[test]
fn every_web_and_synthetic_text_has_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let verdicts = judge(folder.path(), 2, &filter_config(4, 0.5));
    assert_eq!(verdicts.len(), 11);
    for (row, verdicts) in rows().iter().zip(&verdicts) {
        assert_eq!(
            (verdicts.pair_id, verdicts.model),
            (row.pair.pair_id, digest())
        );
        let judged: Vec<_> = verdicts
            .verdicts
            .iter()
            .map(|verdict| verdict.text_id)
            .collect();
        if !row.keep {
            assert_eq!(judged, []);
            continue;
        }
        let texts = [
            &row.pair.texts[0],
            &row.pair.texts[1],
            &row.pair.texts[2],
            &row.synthetic[0],
        ];
        assert_eq!(judged, texts.map(|text| text.text_id));
        let [alt, title, ..] = &verdicts.verdicts[..] else {
            panic!("four verdicts")
        };
        assert_eq!(
            (alt.itc, alt.itm),
            (title.itc, title.itm),
            "equal texts, equal scores"
        );
    }
}

/// Rows as an import of pictures without texts makes them.
fn textless_rows() -> Vec<ViewRow> {
    let mut rows = rows();
    for row in &mut rows {
        row.pair.texts.clear();
        row.kept_texts.clear();
        row.synthetic.clear();
    }
    rows
}

#[test]
fn a_picture_without_a_text_is_captioned_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let captioner = Captioner::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let captions =
        captioner.caption_shard(&pool, &caption_config(4, 1), 1, &textless_rows(), &go_on);
    let captions = captions.unwrap();
    assert_eq!(
        captions,
        caption(folder.path(), 1, &caption_config(4, 1), 1)
    );
}

#[test]
fn a_filter_judges_the_texts_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let filter = Filter::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let config = filter_config(4, 0.5);
    // No text at all: a row without verdicts for every row.
    let verdicts = filter
        .judge_shard(&pool, &config, &textless_rows(), &go_on)
        .unwrap();
    assert_eq!(verdicts.len(), 11);
    for (row, verdicts) in rows().iter().zip(&verdicts) {
        assert_eq!(verdicts.pair_id, row.pair.pair_id);
        assert_eq!(verdicts.verdicts, []);
    }
    // A synthetic text alone, for the fifth picture.
    let mut rows = textless_rows();
    rows[4].synthetic = row(4, true).synthetic;
    let verdicts = filter.judge_shard(&pool, &config, &rows, &go_on).unwrap();
    let judged: Vec<usize> = verdicts.iter().map(|row| row.verdicts.len()).collect();
    assert_eq!(judged, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        verdicts[4].verdicts[0].text_id,
        rows[4].synthetic[0].text_id
    );
}

#[test]
fn scores_are_those_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (med, tokenizer) = save_model(folder.path());
    let verdicts = judge(folder.path(), 2, &filter_config(4, 0.5));
    let preprocess = ImagePreprocess::new(SIDE);
    let mut seen = BTreeSet::new();
    for (row, verdicts) in rows().iter().zip(&verdicts).filter(|(row, _)| row.keep) {
        let pixels = preprocess.pixels(&row.pair.image).unwrap();
        let images = med.encode(preprocess.batch(pixels, &Device::flex()));
        for (text, verdict) in row.judged_texts().zip(&verdicts.verdicts) {
            let batch = TokenBatch::new(&[tokenizer.encode(&text.text, 12)], 0);
            let logits = med.match_logits(&med.memory(&images), &batch, &[0]);
            let logits = logits.into_data().try_to_vec::<f32>().unwrap();
            let itm = logits[1].exp() / (logits[0].exp() + logits[1].exp());
            let cosine = (med.image_features(&images) * med.text_features(&batch)).sum();
            let cosine = cosine.into_scalar::<f32>();
            assert!(
                (verdict.itm - itm).abs() < 1e-4,
                "itm {} of {itm}",
                verdict.itm
            );
            assert!(
                (verdict.itc - cosine).abs() < 1e-4,
                "itc {} of {cosine}",
                verdict.itc
            );
            seen.insert((verdict.itm * 1e3) as i64);
        }
    }
    assert!(seen.len() > 5, "scores differ: {seen:?}");
}

#[test]
fn verdicts_do_not_depend_on_batches_or_threads() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let reference = judge(folder.path(), 1, &filter_config(64, 0.5));
    assert_eq!(judge(folder.path(), 2, &filter_config(64, 0.5)), reference);
    let other = judge(folder.path(), 2, &filter_config(1, 0.5));
    for (a, b) in reference.iter().zip(&other) {
        for (a, b) in a.verdicts.iter().zip(&b.verdicts) {
            assert!((a.itm - b.itm).abs() < 1e-4 && (a.itc - b.itc).abs() < 1e-4);
        }
    }
}

#[test]
fn the_threshold_decides() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    for (threshold, kept, reason) in [(0.0, true, "itm>=0"), (1.5, false, "itm<1.5")] {
        let verdicts = judge(folder.path(), 1, &filter_config(64, threshold));
        for verdict in verdicts.iter().flat_map(|row| &row.verdicts) {
            assert_eq!((verdict.kept, verdict.reason.as_str()), (kept, reason));
        }
    }
    let verdicts = judge(folder.path(), 1, &filter_config(64, 0.5));
    let all = || verdicts.iter().flat_map(|row| &row.verdicts);
    assert!(all().all(|verdict| verdict.kept == (verdict.itm >= 0.5)));
}

#[test]
fn a_broken_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let captioner = Captioner::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let filter = Filter::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let mut rows = rows();
    rows[5].pair.image.truncate(40);
    let failed = [
        captioner
            .caption_shard(&pool, &caption_config(4, 1), 1, &rows, &go_on)
            .err(),
        filter
            .judge_shard(&pool, &filter_config(4, 0.5), &rows, &go_on)
            .err(),
    ];
    for error in failed {
        let error = error.expect("a truncated picture");
        assert_eq!(error.kind(), FailureKind::PoisonShard);
        let pair = rows[5].pair.pair_id;
        assert_eq!(
            error.to_string(),
            format!("the stored picture of pair {pair} cannot be decoded")
        );
        let cause = std::error::Error::source(&error);
        assert!(cause.is_some(), "the cause is the source");
    }
    // A dropped picture is never decoded.
    rows[5] = row(5, false);
    rows[5].pair.image.clear();
    captioner
        .caption_shard(&pool, &caption_config(4, 1), 1, &rows, &go_on)
        .unwrap();
}

#[test]
fn a_folder_that_cannot_serve_its_role_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (med, tokenizer) = save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let load = |path: &Path| {
        let captioner = Captioner::load(path, digest(), DeviceSpec::Cpu, &pool).map(|_| ());
        let filter = Filter::load(path, digest(), DeviceSpec::Cpu, &pool).map(|_| ());
        (captioner, filter)
    };
    let empty = tempfile::tempdir().unwrap();
    let (captioner, filter) = load(empty.path());
    for error in [captioner.unwrap_err(), filter.unwrap_err()] {
        assert!(matches!(error, Error::Model { .. }), "{error}");
        assert_eq!(error.kind(), FailureKind::BadInput);
    }
    // A captioner alone cannot judge.
    let preprocess = ImagePreprocess::new(SIDE);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    let alone = tempfile::tempdir().unwrap();
    med.save_as(alone.path(), MedParts::Captioner, &assets)
        .unwrap();
    let (captioner, filter) = load(alone.path());
    captioner.unwrap();
    assert!(matches!(
        filter.unwrap_err(),
        Error::Model { role: "filter", .. }
    ));
    std::fs::remove_file(alone.path().join("vocab.txt")).unwrap();
    assert!(matches!(
        load(alone.path()).0.unwrap_err(),
        Error::Model {
            role: "captioner",
            ..
        }
    ));
}

#[test]
fn bad_decoding_is_an_error_before_any_row_is_returned() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let captioner = Captioner::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let mut config = caption_config(4, 1);
    config.decoding.choose = stage::Strategy::Nucleus {
        top_p: 0.0,
        temperature: 1.0,
        top_k: 0,
    };
    let error = captioner
        .caption_shard(&pool, &config, 1, &rows(), &go_on)
        .unwrap_err();
    assert!(matches!(error, Error::Decoding(_)) && error.kind() == FailureKind::BadInput);
}

#[test]
fn progress_counts_pictures_and_can_stop() {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path());
    let pool = ComputePool::new(1).unwrap();
    let captioner = Captioner::load(folder.path(), digest(), DeviceSpec::Cpu, &pool).unwrap();
    let told = Cell::new(0);
    let tell = |done: u64| {
        assert!(done > told.get());
        told.set(done);
        true
    };
    captioner
        .caption_shard(&pool, &caption_config(2, 1), 1, &rows(), &tell)
        .unwrap();
    assert_eq!(told.get(), 9, "the pictures that curation keeps");
    let error = captioner.caption_shard(&pool, &caption_config(2, 1), 1, &rows(), &|done| done < 4);
    assert!(matches!(error.unwrap_err(), Error::Cancelled));
}
