//! Data and models that somebody has: the shipped CapFilt pipeline over img2dataset's Parquet, and
//! a given model that is trained further. No crawl.

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
    DeviceSpec, ImagePreprocess, InitRecipe, Med, MedParts, Model, TokenBatch, Tokenizer,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::harness::{capstan, fail, one_line, root, succeed};
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

/// A row of img2dataset: every fifth one failed.
fn is_failed(row: usize) -> bool {
    row % 5 == 4
}

/// Numbers of the rows that did not fail, over all files.
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

/// What `img2dataset --output_format parquet` would have left.
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

/// A small model with drawn weights, as somebody's checkpoint.
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
    // Strong embeddings, so that pictures and words make a difference.
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

/// Shifts the matching head of a filter, so that it keeps some of the web texts and refuses some.
fn keep_some(med: &mut Med, tokenizer: &Tokenizer, preprocess: &ImagePreprocess) {
    let mut scores: Vec<f32> = numbers()
        .map(|number| {
            let pixels = preprocess.pixels(&picture(number)).unwrap();
            let images = med.image_embeds(preprocess.batch(pixels, med.device()));
            let ids = tokenizer.encode(scene(number), 24);
            let texts = TokenBatch::new(&[ids], tokenizer.special().pad);
            let logits = med.itm_logits(&med.memory(&images), &texts, &[0]);
            let logits = logits.into_data();
            let logits = logits.as_slice::<f32>().unwrap();
            logits[1] - logits[0]
        })
        .collect();
    scores.sort_by(f32::total_cmp);
    // Pictures are stored a little otherwise than they came: between the two that are furthest
    // apart that moves none across.
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

/// A system over `folder`, which holds sources, store and all.
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
            .env("CAPSTAN__IMPORT__ROOT", folder);
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

    /// Runs the text of a pipeline.
    fn run_text(&self, name: &str, text: &str) -> Command {
        let path = self.folder.join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        self.run(&path)
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
fn capfilt_runs_over_somebodys_pairs_with_somebodys_models() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    lay_out_pairs(&folder.join("img2dataset"));
    lay_out_model(&folder.join("models/captioner"), MedParts::Captioner, 3);
    lay_out_model(&folder.join("models/filter"), MedParts::Filter, 4);
    let given = Given::start(folder, "0");

    let told = json(&mut given.run(&root().join("deploy/pipelines/capfilt.toml")));
    assert_eq!(told["state"], "done", "{told}");
    assert_eq!(told["stages"].as_array().unwrap().len(), 5);
    let failed = FILES * (0..ROWS).filter(|row| is_failed(*row)).count();
    let stats = json(&mut given.over(&["dataset", "stats", "pairs", "--json"]));
    assert_eq!(stats["rows"], FILES * ROWS - failed);
    assert_eq!(stats["rejects"]["http_status"], failed, "{stats}");
    let kept = |origin: &str| stats["texts"][origin]["kept"].as_u64().unwrap();
    let (kept_web, kept_synthetic) = (kept("alt"), kept("synthetic"));
    let refused = stats["texts"]["alt"]["refused"].as_u64().unwrap();
    assert!(kept_web > 0 && refused > 0, "it keeps all or none: {stats}");
    let verify = succeed(&mut given.over(&["dataset", "verify"]));
    assert!(String::from_utf8(verify.stdout).unwrap().contains("clean"));

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
    synthetic_texts_lead_back(&given, &out, &told);
    an_export_is_an_import(&given, kept_web + kept_synthetic);
}

/// Every row as img2dataset would have it, and what only we know; rows by origin.
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
                "of the download, not of ours"
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

/// The reader that most people have; where it is not at hand, that is said.
fn pyarrow_reads(out: &Path, rows: u64) {
    let python = |code: &str| Command::new("python3").args(["-c", code]).arg(out).output();
    if !python("import pyarrow.parquet").is_ok_and(|output| output.status.success()) {
        let line = "python3 with pyarrow is not at hand: its reading of an export was not tried";
        assert!(std::env::var_os("CI").is_none(), "{line}");
        eprintln!("{line}");
        return;
    }
    let code = "import sys, pyarrow.parquet as pq\n\
        t = pq.read_table(sys.argv[1])\n\
        ok = all(b[:2] == b'\\xff\\xd8' for b in t['jpg'].to_pylist())\n\
        print(t.num_rows, ok, all(t['caption'].to_pylist()), ','.join(t.column_names[:5]))";
    let output = python(code).unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = format!("{rows} True True url,caption,key,status,error_message");
    assert_eq!(told.trim(), expected, "{errors}");
}

/// From an exported text to its page, the model that wrote it and the commit.
fn synthetic_texts_lead_back(given: &Given, out: &Path, told: &Value) {
    let stages = told["stages"].as_array().unwrap();
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
    assert_eq!(made, ["pairs", "caption", "filter"]);
    let models = json(&mut given.over(&["model", "ls", "--json"]));
    let captioner = models.as_array().unwrap().iter();
    let mut captioner = captioner.filter(|model| model["model"] == output("captioner").as_str());
    let captioner = captioner.next().unwrap();
    assert_eq!(captioner["family"], "BlipForConditionalGeneration");
    assert_eq!(captioner["made_by"]["stage"], "captioner");
}

/// What went out comes in again as img2dataset's.
fn an_export_is_an_import(given: &Given, rows: u64) {
    let text = "name = \"again\"\n[[stage]]\nname = \"again\"\nkind = \"import\"\n\
        dataset = \"again\"\nformat = \"img2dataset\"\nsource = \"out\"\nshards = 2\n";
    json(&mut given.run_text("again", text));
    let stats = json(&mut given.over(&["dataset", "stats", "again", "--json"]));
    assert_eq!(stats["rows"], rows, "{stats}");
    assert_eq!(stats["rejects"], serde_json::json!({}));
}

/// A folder of pictures with texts, a given captioner, and one step of training more.
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
fn a_given_model_is_trained_further_and_a_foreign_one_is_refused_in_a_line() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let pictures = folder.join("pictures/a");
    std::fs::create_dir_all(&pictures).unwrap();
    for (at, scene) in SCENES.iter().enumerate() {
        std::fs::write(pictures.join(format!("{at}.jpg")), picture(at)).unwrap();
        std::fs::write(pictures.join(format!("{at}.txt")), scene).unwrap();
    }
    lay_out_model(&folder.join("models/captioner"), MedParts::Captioner, 3);
    let given = Given::start(folder, "1");
    let told = json(&mut given.run_text("further", FURTHER));
    assert_eq!(told["state"], "done", "{told}");
    let output = |at: usize| {
        told["stages"][at]["output"]["model"]
            .as_str()
            .map(str::to_owned)
    };
    let (before, after) = (output(1).unwrap(), output(2).unwrap());
    assert_ne!(before, after);

    // By its digest, and by a folder that has another one.
    let model = |settings: &str| {
        format!("name = \"m\"\n[[stage]]\nname = \"m\"\nkind = \"model\"\n{settings}\n")
    };
    let stored = json(&mut given.run_text("stored", &model(&format!("digest = \"{after}\""))));
    assert_eq!(stored["stages"][0]["output"]["model"], after.as_str());
    let nobodys = "0".repeat(64);
    let other = format!("source = \"models/captioner\"\ndigest = \"{nobodys}\"");
    let stderr = fail(&mut given.run_text("other", &model(&other)), 5);
    assert!(one_line(&stderr).contains(&before), "{stderr}");

    let foreign = folder.join("models/foreign");
    std::fs::create_dir(&foreign).unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#;
    std::fs::write(foreign.join("config.json"), config).unwrap();
    let stderr = fail(
        &mut given.run_text("foreign", &model("source = \"models/foreign\"")),
        5,
    );
    let line = one_line(&stderr);
    assert!(
        line.contains("models/foreign") && line.contains("LlamaForCausalLM"),
        "{line}"
    );
    let source = "name = \"s\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\ndataset = \"s\"\n\
        format = \"img2dataset\"\nsource = \"pictures\"\n";
    let stderr = fail(&mut given.run_text("source", source), 5);
    assert!(one_line(&stderr).contains(".parquet"), "{stderr}");
}
