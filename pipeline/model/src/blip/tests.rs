//! A MED as a whole: sharing, folders, decoding.

use burn::tensor::{Device, Tensor, TensorData};

use super::{CAPTIONER_FOLDER, FILTER_FOLDER, Med, MedParts};
use crate::config::{BlipConfig, Sizes, SpecialIds};
use crate::folder::{Assets, Error, WEIGHTS_FILE};
use crate::generate::{Decoding, Strategy, generate};
use crate::init::InitRecipe;
use crate::tokens::TokenBatch;
use crate::weights::Model;

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
    let read = Med::open(folder.path(), &device).expect("read");
    assert_eq!(read.parts(), MedParts::Both);
    assert_eq!(read.to_flat(), whole.to_flat());
    let loss = |med: &Med| {
        let memory = med.memory(&med.image_embeds(pixels(3, &device)));
        med.lm_loss(&memory, &texts(), &[0, 1, 2], 0.1)
            .sum
            .into_scalar::<f32>()
    };
    let captioner = Med::load(folder.path(), MedParts::Captioner, &device).expect("a captioner");
    assert_eq!(loss(&captioner), loss(&whole));
    let filter = Med::load(folder.path(), MedParts::Filter, &device).expect("a filter");
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
    match Med::open(folder.path(), &device) {
        Err(Error::Shared { tensor, .. }) => {
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
    let load = || Med::load(&captioner, MedParts::Captioner, &device).map(|_| ());
    std::fs::copy(filter.join(WEIGHTS_FILE), captioner.join(WEIGHTS_FILE)).expect("copied");
    assert!(matches!(load(), Err(Error::Missing { .. })), "{:?}", load());
    std::fs::write(captioner.join(WEIGHTS_FILE), b"not weights at all").expect("written");
    assert!(matches!(load(), Err(Error::Header { .. })), "{:?}", load());
    std::fs::write(captioner.join(WEIGHTS_FILE), [0; 4]).expect("written");
    assert!(matches!(load(), Err(Error::Format { .. })), "{:?}", load());
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
    let images = med.image_embeds(pixels(3, &device));
    let memory = med.memory(&images);
    let cosine = med
        .image_features(&images)
        .matmul(med.text_features(&texts()).transpose());
    let itc = Med::cross_entropy_sum(cosine / med.temperature().unsqueeze(), &[0, 1, 2]);
    let itm = Med::cross_entropy_sum(med.itm_logits(&memory, &texts(), &[0, 0, 2]), &[1, 0, 1]);
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
            &med.memory(&med.image_embeds(images.clone())),
            &[],
            &decoding,
            &draw,
        )
        .expect("texts");
        for (picture, text) in all.iter().enumerate() {
            let one = med.memory(&med.image_embeds(images.clone().narrow(0, picture, 1)));
            let alone = generate(&med, &one, &[], &decoding, &|_, position| {
                draw(picture, position)
            })
            .expect("a text");
            assert_eq!(alone[0], *text, "{strategy:?}");
            assert!(text.ids.len() >= 2 && text.ids.iter().all(|id| !decoding.banned.contains(id)));
        }
    }
}
