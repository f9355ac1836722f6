//! A user's own data and models: the shipped CapFilt pipeline over img2dataset's Parquet, and a given
//! model that is trained further. Nothing is crawled.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray};
use capstan_model::config::{BlipConfig, Sizes};
use capstan_model::folder::Assets;
use capstan_model::{
    DeviceSpec, ImagePreprocess, InitRecipe, Look, Match, Med, MedParts, Model, Network,
    TokenBatch, Tokenizer,
};
use capstan_tests::lines::Lines;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::harness::{assert_line, capstan, fail, import_roots, root, succeed};
use crate::process::Role;

const SIDE: u32 = 48;
const SCENES: [&str; 4] = [
    "a red ball",
    "a blue ring on the ground",
    "two crates",
    "add to cart",
];
const FILES: usize = 3;
const ROWS: usize = 12;

/// Whether img2dataset failed to download this row: every fifth one.
fn is_failed(row: usize) -> bool {
    row % 5 == 4
}

/// Numbers of the downloaded rows over all files.
fn numbers() -> impl Iterator<Item = usize> {
    (0..FILES * ROWS).filter(|number| !is_failed(number % ROWS))
}

/// The caption of a row.
fn scene(number: usize) -> &'static str {
    SCENES[number % ROWS % SCENES.len()]
}

fn picture(seed: usize) -> Vec<u8> {
    let shade = |at: u32, by: usize| (at as usize * by % 251) as u8;
    let picture = image::RgbImage::from_fn(SIDE, SIDE, |x, y| {
        image::Rgb([
            shade(x, seed + 3),
            shade(y, seed + 5),
            shade(x + y, seed + 7),
        ])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    bytes.into_inner()
}

/// Writes files as `img2dataset --output_format parquet` does.
fn lay_out_pairs(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for file in 0..FILES {
        let rows: Vec<usize> = (0..ROWS).collect();
        let seed = |row: &usize| file * ROWS + row;
        let text = |of: &dyn Fn(&usize) -> Option<String>| -> ArrayRef {
            Arc::new(StringArray::from(rows.iter().map(of).collect::<Vec<_>>()))
        };
        let side = |side: i32| -> ArrayRef {
            let of = |row: &usize| (!is_failed(*row)).then_some(side);
            Arc::new(Int32Array::from(rows.iter().map(of).collect::<Vec<_>>()))
        };
        let failed = |row: &usize, with: &str, without: &str| {
            Some(if is_failed(*row) { with } else { without }.to_owned())
        };
        let error = |row: &usize| is_failed(*row).then(|| "HTTP Error 404: Not Found".to_owned());
        let pictures: Vec<Option<Vec<u8>>> = rows
            .iter()
            .map(|row| (!is_failed(*row)).then(|| picture(seed(row))))
            .collect();
        let columns = [
            (
                "url",
                text(&|row| Some(format!("http://a.test/{}.jpg", seed(row)))),
            ),
            (
                "caption",
                text(&|row| Some(SCENES[row % SCENES.len()].to_owned())),
            ),
            ("key", text(&|row| Some(format!("{file:05}{row:04}")))),
            (
                "status",
                text(&|row| failed(row, "failed_to_download", "success")),
            ),
            ("error_message", text(&error)),
            ("width", side(SIDE as i32)),
            ("height", side(SIDE as i32)),
            ("original_width", side(640)),
            ("original_height", side(480)),
            (
                "sha256",
                text(&|row| (!is_failed(*row)).then(|| format!("{:064x}", seed(row)))),
            ),
            (
                "jpg",
                Arc::new(BinaryArray::from(
                    pictures.iter().map(Option::as_deref).collect::<Vec<_>>(),
                )) as ArrayRef,
            ),
        ];
        let columns = columns.map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = File::create(folder.join(format!("{file:05}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// Writes a small model with random weights as a Hugging Face folder.
fn lay_out_model(folder: &Path, parts: MedParts, seed: u64) {
    let tokenizer = Tokenizer::train(SCENES, 1, 200).unwrap();
    let sizes = Sizes {
        image_size: 32,
        patch_size: 16,
        width: 32,
        heads: 2,
        vision_layers: 1,
        text_layers: 1,
        projection: 16,
        max_text_tokens: 24,
    };
    let config = BlipConfig::new(&sizes, tokenizer.len(), &tokenizer.special()).unwrap();
    let mut med = Med::new(config, parts, &DeviceSpec::Cpu.open().unwrap());
    // Large embeddings, so that scores depend on pictures and words.
    let recipe = InitRecipe {
        embedding_std: 0.5,
        ..InitRecipe::default()
    };
    med.initialise(seed, &recipe);
    let preprocess = ImagePreprocess::new(32);
    if parts == MedParts::Filter {
        keep_some(&mut med, &tokenizer, &preprocess);
    }
    let assets = Assets {
        tokenizer: Some(&tokenizer),
        preprocess: Some(&preprocess),
    };
    med.save(folder, &assets).unwrap();
    std::fs::write(folder.join("README.md"), "what a model's card says").unwrap();
}

/// Shifts the bias of a filter's matching head, so that the filter keeps only some of the web texts.
fn keep_some(med: &mut Med, tokenizer: &Tokenizer, preprocess: &ImagePreprocess) {
    let mut scores: Vec<f32> = numbers()
        .map(|number| {
            let pixels = preprocess.pixels(&picture(number)).unwrap();
            let images = med.encode(preprocess.batch(pixels, med.device()));
            let ids = tokenizer.encode(scene(number), 24);
            let texts = TokenBatch::new(&[ids], tokenizer.special().pad);
            let logits = med.match_logits(&med.memory(&images), &texts, &[0]);
            let logits = logits.into_data();
            let logits = logits.as_slice::<f32>().unwrap();
            logits[1] - logits[0]
        })
        .collect();
    scores.sort_by(f32::total_cmp);
    // Import encodes pictures again, which changes scores a little. A threshold in the middle of the
    // widest gap between two scores is not crossed.
    let middle = &scores[scores.len() / 5..scores.len() * 4 / 5];
    let gap = middle
        .windows(2)
        .max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    let gap = gap.unwrap();
    let mut flat = med.to_flat();
    let mut slices = med.layout().into_iter();
    let bias = slices.find(|slice| slice.name == "itm_head.bias").unwrap();
    flat[bias.range.start + 1] -= (gap[0] + gap[1]) / 2.0;
    med.load_flat(&flat);
}

/// `capstan up` over a folder that holds the sources and the store.
struct Given {
    folder: PathBuf,
    system: Role,
}

impl Given {
    fn start(folder: &Path, trainers: &str) -> Self {
        let mut command = capstan(["up", "--listen", "127.0.0.1:0", "--workers", "2"]);
        command
            .args(["--device", "cpu", "--trainers", trainers, "--store"])
            .arg(folder.join("store"))
            .current_dir(folder)
            .env("CAPSTAN__IMPORT__ROOTS", import_roots(folder));
        Self {
            folder: folder.to_owned(),
            system: Role::start(&mut command, folder),
        }
    }

    fn run(&self, pipeline: &Path) -> Command {
        let mut command = capstan(["run", "--json", "--coordinator", &self.system.url()]);
        command.arg(pipeline);
        command
    }

    /// Runs a pipeline given as text under the run id `name`.
    fn run_text(&self, name: &str, text: &str) -> Command {
        let path = self.folder.join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        let mut command = self.run(&path);
        command.args(["--run", name]);
        command
    }

    /// A command over the store.
    fn over(&self, args: &[&str]) -> Command {
        let mut command = capstan(args);
        command.arg("--store").arg(self.folder.join("store"));
        command
    }
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&succeed(command).stdout).unwrap()
}

fn rows_of(folder: &Path) -> Vec<RecordBatch> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "parquet"))
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let file = File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        reader
            .build()
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    files.into_iter().flat_map(read).collect()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    (0..column.len())
        .map(|row| column.value(row).to_owned())
        .collect()
}

#[test]
fn capfilt_runs_over_given_pairs_with_given_models() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    lay_out_pairs(&folder.join("img2dataset"));
    lay_out_model(&folder.join("models/captioner"), MedParts::Captioner, 3);
    lay_out_model(&folder.join("models/filter"), MedParts::Filter, 4);
    let given = Given::start(folder, "0");

    let run = json(&mut given.run(&root().join("deploy/pipelines/capfilt.toml")));
    assert_eq!(run["state"], "done", "{run}");
    assert_eq!(run["stages"].as_array().unwrap().len(), 5);
    let failed = FILES * (0..ROWS).filter(|row| is_failed(*row)).count();
    let stats = json(&mut given.over(&["dataset", "stats", "pairs", "--json"]));
    assert_eq!(stats["rows"], FILES * ROWS - failed);
    assert_eq!(stats["rejects"]["http_status"], failed, "{stats}");
    let kept = |origin: &str| stats["texts"][origin]["kept"].as_u64().unwrap();
    let (kept_web, kept_synthetic) = (kept("alt"), kept("synthetic"));
    let refused = stats["texts"]["alt"]["refused"].as_u64().unwrap();
    assert!(kept_web > 0 && refused > 0, "it keeps all or none: {stats}");
    let verify = succeed(&mut given.over(&["dataset", "verify"]));
    assert_line(&verify.stdout, "clean");

    let out = folder.join("out");
    let mut export = given.over(&["dataset", "export", "pairs", "--layout", "flat", "--json"]);
    let exported = json(export.arg(&out));
    assert_eq!(exported["texts"], kept_web + kept_synthetic);
    let origins = check_export(&out);
    assert_eq!(origins.get("alt").copied().unwrap_or(0), kept_web);
    assert_eq!(
        origins.get("synthetic").copied().unwrap_or(0),
        kept_synthetic
    );
    pyarrow_reads(&out, kept_web + kept_synthetic);
    synthetic_texts_lead_back(&given, &out, &run);
    an_export_is_an_import(&given, kept_web + kept_synthetic);
}

/// Checks img2dataset's columns and our own in every row; returns the number of rows by origin.
fn check_export(out: &Path) -> BTreeMap<String, u64> {
    let mut origins = BTreeMap::new();
    for batch in rows_of(out) {
        let (urls, sha256) = (texts(&batch, "url"), texts(&batch, "sha256"));
        let (captions, origin) = (texts(&batch, "caption"), texts(&batch, "origin"));
        let pictures = batch.column_by_name("jpg").unwrap().as_binary::<i32>();
        let itm = batch
            .column_by_name("itm")
            .unwrap()
            .as_primitive::<Float32Type>();
        for row in 0..batch.num_rows() {
            let number = urls[row].strip_prefix("http://a.test/").unwrap();
            let number: usize = number.strip_suffix(".jpg").unwrap().parse().unwrap();
            assert_eq!(
                sha256[row],
                format!("{number:064x}"),
                "digest of the download, not of the stored picture"
            );
            let picture = image::load_from_memory(pictures.value(row)).unwrap();
            assert_eq!((picture.width(), picture.height()), (SIDE, SIDE));
            assert!(itm.value(row) >= 0.5);
            if origin[row] == "alt" {
                assert_eq!(captions[row], scene(number));
            }
            *origins.entry(origin[row].clone()).or_default() += 1;
        }
    }
    origins
}

/// Reads the export with pyarrow. Without it, prints one line; in continuous integration, fails.
fn pyarrow_reads(out: &Path, rows: u64) {
    let python = |code: &str| Command::new("python3").args(["-c", code]).arg(out).output();
    if !python("import pyarrow.parquet").is_ok_and(|output| output.status.success()) {
        let line = "python3 has no pyarrow: the export was not read with it";
        assert!(std::env::var_os("CI").is_none(), "{line}");
        eprintln!("{line}");
        return;
    }
    let code = "import sys, pyarrow.parquet as pq\n\
        t = pq.read_table(sys.argv[1])\n\
        ok = all(b[:2] == b'\\xff\\xd8' for b in t['jpg'].to_pylist())\n\
        print(t.num_rows, ok, all(t['caption'].to_pylist()), ','.join(t.column_names[:5]))";
    let output = python(code).unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = format!("{rows} True True url,caption,key,status,error_message");
    assert_eq!(printed.trim(), expected, "{errors}");
}

/// Follows an exported text back to its page, the model that wrote it and the commit.
fn synthetic_texts_lead_back(given: &Given, out: &Path, run: &Value) {
    let stages = run["stages"].as_array().unwrap();
    let output = |stage: &str| {
        let stage = stages.iter().find(|found| found["stage"] == stage).unwrap();
        stage["output"]["model"].as_str().unwrap().to_owned()
    };
    let pair = texts(&rows_of(out)[0], "pair_id").swap_remove(0);
    let found = json(&mut given.over(&["dataset", "lineage", "pairs", &pair, "--json"]));
    let found = found.as_array().unwrap();
    let of = |origin: &str| found.iter().find(|text| text["origin"] == origin).unwrap();
    assert!(of("alt")["written_by"].is_null());
    let lineage = of("synthetic");
    assert_eq!(lineage["pair_id"], pair.as_str());
    assert_eq!(
        lineage["written_by"],
        output("captioner").as_str(),
        "{lineage}"
    );
    assert_eq!(lineage["judged"]["by"], output("matcher").as_str());
    let page = lineage["page_url"].as_str().unwrap();
    assert!(
        page.starts_with("file:pairs/0000") && page.ends_with(".parquet"),
        "{page}"
    );
    let made: Vec<&str> = lineage["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|made| made["commit"]["stage"].as_str().unwrap())
        .collect();
    // A base is two files, metadata and pixels.
    assert_eq!(made, ["pairs", "pairs", "caption", "filter"]);
    let models = json(&mut given.over(&["model", "ls", "--json"]));
    let captioner = models.as_array().unwrap().iter();
    let mut captioner = captioner.filter(|model| model["model"] == output("captioner").as_str());
    let captioner = captioner.next().unwrap();
    assert_eq!(captioner["family"], "BlipForConditionalGeneration");
    assert_eq!(captioner["made_by"]["stage"], "captioner");
}

/// Imports the export as img2dataset's output.
fn an_export_is_an_import(given: &Given, rows: u64) {
    let text = "name = \"again\"\n[[stage]]\nname = \"again\"\nkind = \"import\"\n\
        dataset = \"again\"\nformat = \"img2dataset\"\nsource = \"out\"\nshards = 2\n";
    json(&mut given.run_text("again", text));
    let stats = json(&mut given.over(&["dataset", "stats", "again", "--json"]));
    assert_eq!(stats["rows"], rows, "{stats}");
    assert_eq!(stats["rejects"], serde_json::json!({}));
}

/// Writes pictures into a folder and a subfolder. The second picture has a text.
fn lay_out_pictures(folder: &Path, count: usize) -> Vec<String> {
    let stem = |at: usize| match at % 2 {
        0 => format!("{at:02}"),
        _ => format!("deep/{at:02}"),
    };
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    for at in 0..count {
        std::fs::write(folder.join(stem(at) + ".jpg"), picture(at)).unwrap();
    }
    std::fs::write(folder.join(stem(1) + ".txt"), "a red ball").unwrap();
    (0..count).map(stem).collect()
}

#[test]
fn a_folder_of_pictures_is_exported_with_captions() {
    const COUNT: usize = 12;
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let stems = lay_out_pictures(&folder.join("pictures"), COUNT);
    lay_out_model(&folder.join("models/captioner"), MedParts::Captioner, 3);
    lay_out_model(&folder.join("models/filter"), MedParts::Filter, 4);
    let given = Given::start(folder, "0");
    let run = json(&mut given.run(&root().join("deploy/pipelines/caption-folder.toml")));
    assert_eq!(run["state"], "done", "{run}");

    let stats = json(&mut given.over(&["dataset", "stats", "captioned", "--json"]));
    assert_eq!(stats["rows"], COUNT, "{stats}");
    assert_eq!(stats["rejects"], serde_json::json!({}));
    assert_eq!(stats["texts"]["caption"]["found"], 1);
    let kept = |origin: &str| stats["texts"][origin]["kept"].as_u64().unwrap();
    let texts = kept("caption") + kept("synthetic");
    assert!(kept("synthetic") > 0, "the filter keeps nothing: {stats}");

    let out = folder.join("out");
    let mut export = given.over(&[
        "dataset",
        "export",
        "captioned",
        "--layout",
        "files",
        "--json",
    ]);
    let exported = json(export.arg(&out));
    assert_eq!(exported["texts"], texts, "{exported}");
    let pictures = exported["pictures"].as_u64().unwrap();
    let left_out = exported["left_out"].as_u64().unwrap();
    assert_eq!(pictures + left_out, COUNT as u64);
    let mut lines = 0;
    let mut found = 0;
    for stem in &stems {
        let (jpg, txt) = (
            out.join(format!("{stem}.jpg")),
            out.join(format!("{stem}.txt")),
        );
        assert_eq!(jpg.is_file(), txt.is_file(), "{stem}");
        if !txt.is_file() {
            continue;
        }
        found += 1;
        let text = std::fs::read_to_string(txt).unwrap();
        assert!(!text.is_empty() && text.ends_with('\n'), "{stem}: {text:?}");
        lines += text.lines().count() as u64;
        let picture = image::load_from_memory(&std::fs::read(jpg).unwrap()).unwrap();
        assert_eq!((picture.width(), picture.height()), (SIDE, SIDE));
    }
    assert_eq!((found, lines), (pictures, texts));

    let again = "name = \"again\"\n[[stage]]\nname = \"again\"\nkind = \"import\"\n\
        dataset = \"again\"\nformat = \"folder\"\nsource = \"out\"\ntexts = \"required\"\n";
    json(&mut given.run_text("again", again));
    let stats = json(&mut given.over(&["dataset", "stats", "again", "--json"]));
    assert_eq!(stats["rows"], pictures, "{stats}");
    assert_eq!(stats["texts"]["caption"]["found"], texts);
    assert_eq!(stats["rejects"], serde_json::json!({}));
}

#[test]
fn a_source_outside_the_import_roots_is_refused() {
    let mut lines = Lines::expected_in("e2e", "a_source_outside_the_import_roots_is_refused");
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    lines.name("$DIR", folder.display());
    let (inside, secret) = (folder.join("inside"), folder.join("secret"));
    std::fs::create_dir_all(&inside).unwrap();
    lay_out_pictures(&secret, 2);
    let given = Given::start(&inside, "0");
    for (run, source) in [
        ("above", "../secret"),
        ("absolute", secret.to_str().unwrap()),
    ] {
        let text = format!(
            "name = \"s\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\ndataset = \"s\"\n\
             format = \"folder\"\nsource = {source:?}\n"
        );
        lines.add(&fail(&mut given.run_text(run, &text), 5));
    }
    lines.check();
}

/// A folder of pictures with texts, a given captioner, and two more steps of training.
const FURTHER: &str = r#"
name = "further"
seed = 1

[[stage]]
name = "pairs"
kind = "import"
format = "folder"
dataset = "own"
source = "pictures"
origin = "human"

[[stage]]
name = "given"
kind = "model"
source = "models/captioner"

[[stage]]
name = "further"
kind = "train"
init = "given"
tokenizer = "given"
data = [{ from = "pairs" }]
objectives = ["lm"]
steps = 2
global_batch = 4
world_size = 1
learning_rate = 1e-3

[[stage]]
name = "figures"
kind = "evaluate"
model = "further"
captioning = { from = "pairs", decoding = { choose = { strategy = "greedy" }, max_tokens = 20 } }
"#;

#[test]
fn a_given_model_is_trained_further_and_an_unknown_model_is_refused() {
    let mut lines = Lines::expected_in(
        "e2e",
        "a_given_model_is_trained_further_and_an_unknown_model_is_refused",
    );
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    lines.name("$DIR", folder.display());
    let pictures = folder.join("pictures/a");
    std::fs::create_dir_all(&pictures).unwrap();
    for (at, scene) in SCENES.iter().enumerate() {
        std::fs::write(pictures.join(format!("{at}.jpg")), picture(at)).unwrap();
        std::fs::write(pictures.join(format!("{at}.txt")), scene).unwrap();
    }
    lay_out_model(&folder.join("models/captioner"), MedParts::Captioner, 3);
    let given = Given::start(folder, "1");
    let run = json(&mut given.run_text("further", FURTHER));
    assert_eq!(run["state"], "done", "{run}");
    let output = |at: usize| {
        run["stages"][at]["output"]["model"]
            .as_str()
            .map(str::to_owned)
    };
    let (before, after) = (output(1).unwrap(), output(2).unwrap());
    assert_ne!(before, after);
    lines.name("$BEFORE", &before);

    // A model is named by its digest, or by a folder whose digest has to be equal.
    let model = |settings: &str| {
        format!("name = \"m\"\n[[stage]]\nname = \"m\"\nkind = \"model\"\n{settings}\n")
    };
    let stored = json(&mut given.run_text("stored", &model(&format!("digest = \"{after}\""))));
    assert_eq!(stored["stages"][0]["output"]["model"], after.as_str());
    let zeros = "0".repeat(64);
    let other = format!("source = \"models/captioner\"\ndigest = \"{zeros}\"");
    lines.add(&fail(&mut given.run_text("other", &model(&other)), 5));

    let foreign = folder.join("models/foreign");
    std::fs::create_dir(&foreign).unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#;
    std::fs::write(foreign.join("config.json"), config).unwrap();
    let mut run = given.run_text("foreign", &model("source = \"models/foreign\""));
    lines.add(&fail(&mut run, 5));
    let source = "name = \"s\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\ndataset = \"s\"\n\
        format = \"img2dataset\"\nsource = \"pictures\"\nshards = 1\n";
    lines.add(&fail(&mut given.run_text("source", source), 5));
    lines.check();
}
