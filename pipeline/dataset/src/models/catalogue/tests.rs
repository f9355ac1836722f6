//! Listing models by their headers.

use std::path::Path;

use capstan_plan::commit::Outputs;
use capstan_plan::id::{Digest, LeaseEpoch, RecipeHash};

use super::*;
use crate::models::{digest_given, put, put_given};
use crate::runs::RunRecord;

/// A safetensors file of zeros.
fn safetensors(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".to_owned(),
        serde_json::json!({"format": "pt"}),
    );
    let mut end = 0;
    for (name, shape) in tensors {
        let (from, size) = (end, 4 * shape.iter().product::<u64>());
        end += size;
        let tensor =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, end]});
        header.insert((*name).to_owned(), tensor);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + end as usize, 0);
    bytes
}

fn lay_out(folder: &Path, class: &str, tensors: &[(&str, &[u64])]) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({"architectures": [class], "model_type": "blip"});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("preprocessor_config.json"), "{}").unwrap();
    std::fs::write(folder.join("vocab.txt"), "[PAD]\n").unwrap();
    std::fs::write(folder.join("model.safetensors"), safetensors(tensors)).unwrap();
}

async fn give(store: &Store, run: &str, created_at_ms: i64, model: ModelDigest, adopted: bool) {
    let record = RunRecord {
        run: run.into(),
        pipeline: serde_json::json!({}),
        seed: 1,
        created_at_ms,
        program: "test".to_owned(),
    };
    runs::begin(store, &record).await.unwrap();
    let commit = Commit {
        run: run.into(),
        stage: "captioner".into(),
        shard: "all".into(),
        attempt: run.into(),
        worker: "w".into(),
        lease_epoch: LeaseEpoch::default(),
        recipe: RecipeHash(Digest::of(b"recipe")),
        inputs: Vec::new(),
        outputs: Outputs {
            model: Some(model),
            ..Outputs::default()
        },
        wall_seconds: 0.0,
        cpu_seconds: 0.0,
        adopted,
    };
    commits::commit(store, &commit).await.unwrap();
}

#[tokio::test]
async fn models_are_listed_with_their_family_size_and_maker() {
    let (store, temp) = (Store::memory(), tempfile::tempdir().unwrap());
    let captioner = temp.path().join("captioner");
    let weights: &[(&str, &[u64])] = &[("a", &[2, 3]), ("b", &[5])];
    lay_out(&captioner, "BlipForConditionalGeneration", weights);
    let captioner = put(&store, &captioner).await.unwrap();
    let words = temp.path().join("words");
    std::fs::create_dir(&words).unwrap();
    std::fs::write(words.join("vocab.txt"), "[PAD]\n").unwrap();
    let words = put(&store, &words).await.unwrap();
    give(&store, "later", 2, captioner, true).await;
    give(&store, "first", 1, captioner, false).await;
    let listed = catalogue(&store).await.unwrap();
    let of = |model| listed.iter().find(|listed| listed.model == model).unwrap();
    let listed_captioner = of(captioner);
    assert_eq!(listed_captioner.family, "BlipForConditionalGeneration");
    assert_eq!(listed_captioner.parameters, 11);
    let maker = listed_captioner.made_by.as_ref().unwrap();
    assert_eq!((maker.run.as_str(), maker.adopted), ("first", false));
    assert_eq!(
        (of(words).family.as_str(), of(words).parameters),
        ("tokenizer", 0)
    );
    assert_eq!(of(words).made_by, None);
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn tensors_that_both_folders_of_a_med_hold_count_once() {
    let (store, temp) = (Store::memory(), tempfile::tempdir().unwrap());
    let sub = |name: &str| temp.path().join("med").join(name);
    let decoder: &[(&str, &[u64])] = &[
        ("vision_model.a", &[10]),
        ("text_decoder.bert.b.weight", &[20]),
        ("text_decoder.bert.layer.attention.self.weight", &[30]),
    ];
    let encoder: &[(&str, &[u64])] = &[
        ("vision_model.a", &[10]),
        ("text_encoder.b.weight", &[20]),
        ("text_encoder.layer.attention.self.weight", &[40]),
    ];
    lay_out(
        &sub("conditional_generation"),
        "BlipForConditionalGeneration",
        decoder,
    );
    lay_out(
        &sub("image_text_retrieval"),
        "BlipForImageTextRetrieval",
        encoder,
    );
    let med = put(&store, &temp.path().join("med")).await.unwrap();
    let med = describe(&store, &med).await.unwrap();
    assert_eq!(med.parameters, 10 + 20 + 30 + 40);
    assert_eq!(
        med.family,
        "BlipForConditionalGeneration+BlipForImageTextRetrieval"
    );
}

#[tokio::test]
async fn a_cut_header_is_named_with_its_file() {
    let (store, temp) = (Store::memory(), tempfile::tempdir().unwrap());
    let folder = temp.path().join("cut");
    lay_out(&folder, "CLIPModel", &[("a", &[2])]);
    let whole = safetensors(&[("a", &[2])]);
    std::fs::write(folder.join("model.safetensors"), &whole[..20]).unwrap();
    let model = put(&store, &folder).await.unwrap();
    let error = describe(&store, &model).await.unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[tokio::test]
async fn of_a_given_folder_only_what_models_are_read_from_is_stored() {
    let (store, temp) = (Store::memory(), tempfile::tempdir().unwrap());
    let folder = temp.path().join("given");
    lay_out(&folder, "CLIPModel", &[("a", &[2])]);
    let plain = put(&store, &folder).await.unwrap();
    std::fs::write(folder.join("pytorch_model.bin"), "the same once more").unwrap();
    std::fs::write(folder.join("model card (draft).md"), "a name of no object").unwrap();
    std::fs::create_dir(folder.join("my samples")).unwrap();
    std::fs::write(folder.join("my samples/config.json"), "{}").unwrap();
    assert_eq!(digest_given(&folder).await.unwrap(), plain);
    assert_eq!(put_given(&store, &folder).await.unwrap(), plain);
    assert_eq!(list(&store).await.unwrap(), [plain]);
}
