//! A MED as a whole: sharing, folders, decoding.

use burn::tensor::{Device, Tensor, TensorData};

use super::{CAPTIONER_FOLDER, FILTER_FOLDER, Med, MedParts};
use crate::config::{BlipConfig, Sizes, SpecialIds};
use crate::folder::{self, Assets};
use crate::generate::{Decoding, Strategy, generate};
use crate::init::InitRecipe;
use crate::network::{Embed, Generate, Look, Match, Network, cross_entropy_sum};
use crate::params::{Dtype, Model, Role};
use crate::pretrained::Load;
use crate::tokens::TokenBatch;
use crate::weights::{Error, INDEX_FILE, Keep, WEIGHTS_FILE};

mod dropout;

const SPECIAL: SpecialIds = SpecialIds {
    pad: 0,
    unk: 1,
    cls: 2,
    sep: 3,
    dec: 4,
    enc: 5,
};
const VOCABULARY: usize = 40;

fn med(device: &Device) -> Med {
    let sizes = Sizes {
        image_size: 16,
        patch_size: 8,
        width: 16,
        heads: 2,
        vision_layers: 1,
        text_layers: 2,
        projection: 8,
        max_text_tokens: 12,
    };
    let config = BlipConfig::new(&sizes, VOCABULARY, &SPECIAL).expect("sizes");
    let mut med = Med::new(config, MedParts::Both, device);
    // Strong embeddings, so that pictures and words make a difference.
    med.initialise(
        7,
        &InitRecipe {
            embedding_std: 0.5,
            ..InitRecipe::default()
        },
    );
    med
}

fn pixels(pictures: usize, device: &Device) -> Tensor<4> {
    let values = (0..pictures * 3 * 256)
        .map(|i| ((i * 31 + i / 768 * 17) % 101) as f32 / 25.0 - 2.0)
        .collect();
    Tensor::from_data(TensorData::new(values, [pictures, 3, 16, 16]), device)
}

fn texts() -> TokenBatch {
    TokenBatch::new(
        &[
            vec![2, 10, 11, 3],
            vec![2, 12, 13, 14, 15, 3],
            vec![2, 9, 3],
        ],
        SPECIAL.pad,
    )
}

#[test]
fn a_pretrained_folder_round_trips_and_gives_both_its_uses() {
    let device = Device::flex();
    let whole = med(&device);
    let folder = tempfile::tempdir().expect("a folder");
    whole
        .save(folder.path(), &Assets::default())
        .expect("saved");
    let read = Med::load(folder.path(), &Load::on(&device)).expect("read");
    assert_eq!(read.parts(), MedParts::Both);
    assert_eq!(read.to_flat(), whole.to_flat());
    let loss = |med: &Med| {
        let memory = med.memory(&med.encode(pixels(3, &device)));
        med.lm_loss(&memory, &texts(), &[0, 1, 2], 0.1)
            .sum
            .into_scalar::<f32>()
    };
    let captioner = Med::load(folder.path(), &Load::on(&device).parts(MedParts::Captioner))
        .expect("a captioner");
    assert_eq!(loss(&captioner), loss(&whole));
    let filter =
        Med::load(folder.path(), &Load::on(&device).parts(MedParts::Filter)).expect("a filter");
    assert_eq!(filter.temperature().into_scalar::<f32>(), 0.07);
    let again = tempfile::tempdir().expect("a folder");
    read.save(again.path(), &Assets::default()).expect("saved");
    for sub in [CAPTIONER_FOLDER, FILTER_FOLDER] {
        for file in [WEIGHTS_FILE, crate::folder::CONFIG_FILE] {
            let bytes =
                |root: &std::path::Path| std::fs::read(root.join(sub).join(file)).expect("a file");
            assert_eq!(bytes(folder.path()), bytes(again.path()), "{sub}/{file}");
        }
    }
}

#[test]
fn folders_that_disagree_are_refused_by_the_tensor() {
    let device = Device::flex();
    let mut whole = med(&device);
    let folder = tempfile::tempdir().expect("a folder");
    whole
        .save(folder.path(), &Assets::default())
        .expect("saved");
    let mut flat = whole.to_flat();
    let slice = whole
        .layout()
        .into_iter()
        .find(|s| s.name.ends_with("1.output.dense.weight"))
        .expect("a tensor");
    flat[slice.range.start] += 1e-6;
    whole.load_flat(&flat);
    let path = folder.path().join(CAPTIONER_FOLDER);
    whole
        .save_as(&path, MedParts::Captioner, &Assets::default())
        .expect("saved");
    match Med::load(folder.path(), &Load::on(&device)) {
        Err(folder::Error::Weights(Error::Shared { tensor, .. })) => {
            assert_eq!(
                tensor,
                "text_decoder.bert.encoder.layer.1.output.dense.weight"
            );
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn foreign_and_broken_weights_are_refused() {
    let device = Device::flex();
    let folder = tempfile::tempdir().expect("a folder");
    med(&device)
        .save(folder.path(), &Assets::default())
        .expect("saved");
    let (captioner, filter) = (
        folder.path().join(CAPTIONER_FOLDER),
        folder.path().join(FILTER_FOLDER),
    );
    let load = || Med::load(&captioner, &Load::on(&device).parts(MedParts::Captioner)).map(|_| ());
    let load = || match load() {
        Err(folder::Error::Weights(error)) => error,
        other => panic!("{other:?}"),
    };
    std::fs::copy(filter.join(WEIGHTS_FILE), captioner.join(WEIGHTS_FILE)).expect("copied");
    assert!(matches!(load(), Error::Missing { .. }), "{:?}", load());
    std::fs::write(captioner.join(WEIGHTS_FILE), b"not weights at all").expect("written");
    assert!(matches!(load(), Error::Header { .. }), "{:?}", load());
    std::fs::write(captioner.join(WEIGHTS_FILE), [0; 4]).expect("written");
    assert!(matches!(load(), Error::Format { .. }), "{:?}", load());
}

#[test]
fn encoder_and_decoder_share_all_but_self_attention() {
    let med = med(&Device::flex());
    let names: Vec<String> = med.layout().into_iter().map(|slice| slice.name).collect();
    let own: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with("text_decoder.") && !name.contains(".cls."))
        .collect();
    assert!(
        !own.is_empty() && own.iter().all(|name| name.contains(".attention.")),
        "{own:?}"
    );
}

#[test]
fn gradients_reach_every_parameter_and_come_in_walk_order() {
    let device = Device::flex().autodiff();
    let med = med(&device);
    let images = med.encode(pixels(3, &device));
    let memory = med.memory(&images);
    let cosine = med
        .image_features(&images)
        .matmul(med.text_features(&texts()).transpose());
    let itc = cross_entropy_sum(cosine / med.temperature().unsqueeze(), &[0, 1, 2], 0.0);
    let itm = cross_entropy_sum(
        med.match_logits(&memory, &texts(), &[0, 0, 2]),
        &[1, 0, 1],
        0.0,
    );
    let lm = med.lm_loss(&memory, &texts(), &[0, 1, 2], 0.1).sum;
    let mut gradients = (itc + itm + lm).backward();
    let flat = med.gradients(&mut gradients);
    assert_eq!(flat.len(), med.num_params());
    for slice in med.layout() {
        let size: f32 = flat[slice.range].iter().map(|g| g.abs()).sum();
        // A bias of all keys moves every score alike and has none.
        assert!(
            size > 0.0 || slice.name.ends_with("key.bias"),
            "{} has no gradient",
            slice.name
        );
    }
}

#[test]
fn a_picture_is_described_alike_in_every_batch() {
    let device = Device::flex();
    let med = med(&device);
    let draw = |picture: usize, position: usize| ((picture * 7 + position * 13) % 17) as f64 / 17.0;
    for strategy in [
        Strategy::Greedy,
        Strategy::Nucleus {
            top_p: 0.9,
            temperature: 1.0,
            top_k: 0,
        },
        Strategy::Beam {
            beams: 3,
            length_penalty: 1.0,
        },
    ] {
        let decoding = Decoding {
            strategy,
            min_tokens: 2,
            max_tokens: 10,
            repetition_penalty: 1.1,
            no_repeat_ngram: 0,
            banned: vec![
                SPECIAL.pad,
                SPECIAL.unk,
                SPECIAL.cls,
                SPECIAL.dec,
                SPECIAL.enc,
            ],
        };
        let images = pixels(5, &device);
        let all = generate(
            &med,
            &med.memory(&med.encode(images.clone())),
            &[],
            &decoding,
            &draw,
        )
        .expect("texts");
        for (picture, text) in all.iter().enumerate() {
            let one = med.memory(&med.encode(images.clone().narrow(0, picture, 1)));
            let alone = generate(&med, &one, &[], &decoding, &|_, position| {
                draw(picture, position)
            })
            .expect("a text");
            assert_eq!(alone[0], *text, "{strategy:?}");
            assert!(text.ids.len() >= 2 && text.ids.iter().all(|id| !decoding.banned.contains(id)));
        }
    }
}

#[test]
fn what_is_frozen_has_no_gradient_and_no_place_among_the_trained() {
    let device = Device::flex().autodiff();
    let mut med = med(&device);
    let (all, trained) = (med.num_params(), med.num_trained());
    assert_eq!(all, trained);
    med.assign(Role::Frozen, &|name| name.starts_with("vision_model."));
    let layout = med.layout();
    assert!(!layout.is_empty() && layout.iter().all(|s| !s.name.starts_with("vision_model.")));
    assert_eq!(med.num_params(), all);
    assert!(med.num_trained() < trained);
    let memory = med.memory(&med.encode(pixels(3, &device)));
    let lm = med.lm_loss(&memory, &texts(), &[0, 1, 2], 0.1).sum;
    let flat = med.gradients(&mut lm.backward());
    assert_eq!(flat.len(), med.num_trained());
    let bias = layout.iter().find(|s| s.name.ends_with("predictions.bias"));
    let bias = &flat[bias.expect("a bias").range.clone()];
    assert!(bias.iter().any(|gradient| *gradient != 0.0));
}

#[test]
fn prompts_of_different_lengths_are_read_alike_in_every_batch() {
    let device = Device::flex();
    let med = med(&device);
    let prompts = vec![vec![10, 11, 12], vec![], vec![13]];
    for strategy in [
        Strategy::Greedy,
        Strategy::Beam {
            beams: 3,
            length_penalty: 1.0,
        },
    ] {
        let decoding = Decoding {
            strategy,
            min_tokens: 3,
            max_tokens: 6,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            banned: vec![SPECIAL.dec],
        };
        let images = pixels(3, &device);
        let memory = med.memory(&med.encode(images.clone()));
        let all = generate(&med, &memory, &prompts, &decoding, &|_, _| 0.5).expect("texts");
        for (picture, text) in all.iter().enumerate() {
            let one = med.memory(&med.encode(images.clone().narrow(0, picture, 1)));
            let prompt = &prompts[picture..=picture];
            let alone = generate(&med, &one, prompt, &decoding, &|_, _| 0.5).expect("a text");
            assert_eq!(alone[0], *text, "{strategy:?} {picture}");
            assert!(text.ids.starts_with(&prompts[picture]));
        }
    }
}

#[test]
fn decoding_step_by_step_gives_the_logits_of_the_whole_text() {
    use crate::generate::Decoder;

    let device = Device::flex();
    let med = med(&device);
    let memory = med.memory(&med.encode(pixels(2, &device)));
    let rows = [vec![4, 10, 11, 12, 13], vec![4, 14, 15, 16, 17]];
    let whole = med.lm_logits(&memory, &TokenBatch::new(&rows, 0), &[0, 1]);
    let whole: Vec<f32> = whole.into_data().try_into_vec().expect("logits");
    let at =
        |row: usize, position: usize| &whole[(row * 5 + position) * VOCABULARY..][..VOCABULARY];
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row[..2].to_vec()).collect();
    let (mut logits, mut state) = med.prefill(&memory, &prompts, 3);
    // The rows change places half way.
    let mut order = [0, 1];
    for position in 1..5 {
        let found: Vec<f32> = logits.to_data().try_into_vec().expect("logits");
        for (place, row) in order.iter().enumerate() {
            let found = &found[place * VOCABULARY..][..VOCABULARY];
            for (a, b) in found.iter().zip(at(*row, position)) {
                assert!((a - b).abs() < 1e-4, "row {row} at {position}: {a} for {b}");
            }
        }
        if position == 2 {
            order = [1, 0];
            med.reorder(&mut state, &[1, 0]);
        }
        if position < 4 {
            let ids = order.map(|row| rows[row][position + 1]);
            logits = med.step(&ids, &mut state);
        }
    }
}

#[test]
fn weights_in_several_files_are_read_by_their_index() {
    let device = Device::flex();
    let whole = med(&device);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    whole
        .save_as(path, MedParts::Captioner, &Assets::default())
        .expect("saved");
    let load = || Med::load(path, &Load::on(&device));
    let wanted = load().expect("one file").to_flat();
    let bytes = std::fs::read(path.join(WEIGHTS_FILE)).expect("weights");
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let mut names: Vec<&str> = all.names();
    names.sort_unstable();
    let mut map = serde_json::Map::new();
    for (part, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-{}-of-2.safetensors", part + 1);
        let views = names
            .iter()
            .map(|name| (*name, all.tensor(name).expect("a tensor")));
        let bytes = safetensors::serialize(views, None).expect("a file");
        std::fs::write(path.join(&file), bytes).expect("written");
        map.extend(
            names
                .iter()
                .map(|name| ((*name).to_owned(), file.clone().into())),
        );
    }
    std::fs::remove_file(path.join(WEIGHTS_FILE)).expect("removed");
    let index = |map: &serde_json::Map<String, serde_json::Value>| {
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(path.join(INDEX_FILE), index.to_string()).expect("written");
    };
    index(&map);
    assert_eq!(load().expect("two files").to_flat(), wanted);
    map.insert("a".to_owned(), "../other.safetensors".into());
    index(&map);
    let error = load().expect_err("a file outside");
    assert!(
        matches!(error, folder::Error::Weights(Error::IndexFile { .. })),
        "{error}"
    );
}

#[test]
fn narrow_weights_are_kept_as_they_are_stored_unless_they_are_trained() {
    let device = Device::flex();
    let whole = med(&device);
    let (wide, narrow) = (tempfile::tempdir(), tempfile::tempdir());
    let (wide, narrow) = (wide.expect("a folder"), narrow.expect("a folder"));
    let save = |med: &Med, folder: &tempfile::TempDir| {
        let saved = med.save_as(folder.path(), MedParts::Captioner, &Assets::default());
        saved.expect("saved");
    };
    save(&whole, &wide);
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let load = Load {
            keep: Keep::As(dtype),
            ..Load::on(&device)
        };
        save(&Med::load(wide.path(), &load).expect("read"), &narrow);
        let kept = Med::load(narrow.path(), &Load::on(&device)).expect("read");
        assert!(kept.params().iter().all(|param| param.dtype() == dtype));
        let trained = Load::on(&device.clone().autodiff());
        let trained = Med::load(narrow.path(), &trained).expect("read");
        assert!(
            trained
                .params()
                .iter()
                .all(|param| param.dtype() == Dtype::F32)
        );
        let files = [&wide, &narrow].map(|folder| {
            let file = std::fs::metadata(folder.path().join(WEIGHTS_FILE));
            file.expect("a file").len()
        });
        assert!(files[1] < files[0] * 6 / 10, "{files:?}");
    }
}
