//! A folder of pictures without texts through the crates, without a cluster: import, caption, filter,
//! export, and import of the export.

use std::collections::BTreeMap;
use std::path::Path;

use capstan_capfilt::{Captioner, Filter};
use capstan_crawl::Control;
use capstan_dataset::export::{self, Layout, Options};
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::View;
use capstan_dataset::{Store, conformance, versions};
use capstan_import::{Imported, Roots, import};
use capstan_model::config::{BlipConfig, Sizes};
use capstan_model::folder::Assets;
use capstan_model::{
    ComputePool, DeviceSpec, ImagePreprocess, InitRecipe, Med, MedParts, Model, Network, Tokenizer,
};
use capstan_plan::commit::Part;
use capstan_plan::id::{Digest, ModelDigest};
use capstan_plan::row::Pair;
use capstan_plan::stage;
use capstan_plan::task::Slice;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SIDE: u32 = 32;
const STEMS: [&str; 4] = ["a", "deep/b", "deep/er/c", "d"];

fn lay_out_pictures(folder: &Path) {
    for (seed, stem) in (1..).zip(STEMS) {
        let path = folder.join(format!("{stem}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let picture = image::RgbImage::from_fn(SIDE, SIDE, |x, y| {
            image::Rgb([x * 7, y * 5, x * y].map(|value| (value * seed % 251) as u8))
        });
        picture.save(path).unwrap();
    }
}

/// Writes a MED with random weights that is both captioner and filter.
fn lay_out_model(folder: &Path) {
    let tokenizer = Tokenizer::train(["a red ball", "two blue crates"], 1, 100).unwrap();
    let sizes = Sizes {
        image_size: 16,
        patch_size: 8,
        width: 16,
        heads: 2,
        vision_layers: 1,
        text_layers: 1,
        projection: 8,
        max_text_tokens: 12,
    };
    let config = BlipConfig::new(&sizes, tokenizer.len(), &tokenizer.special()).unwrap();
    let mut med = Med::new(config, MedParts::Both, &DeviceSpec::Cpu.open().unwrap());
    med.initialise(7, &InitRecipe::default());
    let preprocess = ImagePreprocess::new(16);
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    med.save(folder, &assets).unwrap();
}

/// Imports `<root>/<source>`.
///
/// # Panics
/// On a reject.
async fn import_folder(root: &Path, source: &str, texts: &str) -> Vec<Pair> {
    let config: stage::Import = serde_json::from_value(serde_json::json!({
        "dataset": "captioned",
        "format": "folder",
        "source": source,
        "texts": texts,
        "storing": {"min_side_px": 16},
    }))
    .unwrap();
    let folder = Roots::new([root.to_owned()]).resolve(source).unwrap();
    let control = Control::new(CancellationToken::new(), |_| {}, || 7);
    let (sender, mut receiver) = mpsc::channel(1);
    let collect = async {
        let mut pairs = Vec::new();
        while let Some(imported) = receiver.recv().await {
            match imported {
                Imported::Pair(pair) => pairs.push(*pair),
                Imported::Reject(reject) => panic!("{reject:?}"),
            }
        }
        pairs
    };
    let slice = Slice::default();
    let reading = import(&config, &folder, slice, &control, sender);
    let (outcome, pairs) = tokio::join!(reading, collect);
    outcome.unwrap();
    pairs
}

/// Adds captions and verdicts to a shard as the stages of `caption-folder.toml` do. The filter keeps
/// every text.
async fn caption_and_filter(store: &Store, part: &mut Part, model: &Path) {
    let digest = ModelDigest(Digest::of(b"model"));
    let pool = ComputePool::new(1).unwrap();
    let rows = View::read(store, part, Pixels::Read).await.unwrap();
    let captioner = Captioner::load(model, digest, DeviceSpec::Cpu, &pool).unwrap();
    let config: stage::Caption = serde_json::from_value(serde_json::json!({
        "from": "pictures",
        "model": "captioner",
        "decoding": {"choose": {"strategy": "greedy"}, "min_tokens": 3, "max_tokens": 8},
    }))
    .unwrap();
    let captions = captioner.caption_shard(&pool, &config, 1, &rows, &|_| true);
    let captions = files::write_overlay(store, &part.base, captions.unwrap()).await;
    part.overlays.push(captions.unwrap());

    let rows = View::read(store, part, Pixels::Read).await.unwrap();
    let filter = Filter::load(model, digest, DeviceSpec::Cpu, &pool).unwrap();
    let config: stage::Filter = serde_json::from_value(serde_json::json!({
        "from": "caption",
        "model": "matcher",
        "threshold": 0.0,
    }))
    .unwrap();
    let verdicts = filter
        .judge_shard(&pool, &config, &rows, &|_| true)
        .unwrap();
    assert!(verdicts.iter().all(|row| row.verdicts.len() == 1));
    let verdicts = files::write_overlay(store, &part.base, verdicts).await;
    part.overlays.push(verdicts.unwrap());
}

#[tokio::test]
async fn pictures_without_texts_are_exported_with_captions() {
    let temp = tempfile::tempdir().unwrap();
    let (pictures, model) = (temp.path().join("pictures"), temp.path().join("model"));
    lay_out_pictures(&pictures);
    lay_out_model(&model);
    let pairs = import_folder(temp.path(), "pictures", "optional").await;
    assert_eq!(pairs.len(), STEMS.len());
    assert!(pairs.iter().all(|pair| pair.texts.is_empty()));

    let store = Store::memory();
    let mut parts = conformance::rows::parts(&store, pairs, 100).await;
    for part in &mut parts {
        part.overlays.clear();
        caption_and_filter(&store, part, &model).await;
    }
    let new = versions::NewVersion {
        dataset: "captioned".into(),
        run: "r".into(),
        stage: "filter".into(),
        recipes: Vec::new(),
        derived_from: None,
        statistics: BTreeMap::new(),
        missing: Vec::new(),
        parts,
    };
    let version = versions::publish(&store, new).await.unwrap();
    let out = temp.path().join("out");
    let options = Options {
        layout: Layout::Files,
        ..Options::default()
    };
    let exported = export::export(&store, &version, &out, options, &|_, _| ()).await;
    let exported = exported.unwrap();
    let count = STEMS.len() as u64;
    assert_eq!(
        (exported.pictures, exported.texts, exported.left_out),
        (count, count, 0)
    );

    let again = import_folder(temp.path(), "out", "required").await;
    let mut found: Vec<(String, String)> = again
        .into_iter()
        .map(|pair| (pair.image_url, pair.texts[0].text.clone()))
        .collect();
    found.sort();
    let text = |stem: &&str| {
        let lines = std::fs::read_to_string(out.join(format!("{stem}.txt"))).unwrap();
        let url = format!("file:captioned/{stem}.jpg");
        (url, lines.strip_suffix('\n').unwrap().to_owned())
    };
    let mut expected: Vec<(String, String)> = STEMS.iter().map(text).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert!(found.iter().all(|(_, text)| !text.is_empty()));
}
