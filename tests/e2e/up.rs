//! `capstan up`: runs are planned, submitted, watched and submitted again without work; their datasets
//! and models are traced and exported.

use std::path::Path;
use std::process::{Command, Output};

use capstan_tests::lines::Lines;
use serde_json::Value;

use crate::harness::{ALL_COMMITTED, assert_line, capstan, fail, import_roots, root, succeed};
use crate::process::Role;

/// An import and a tokenizer: a run of seconds.
const PIPELINE: &str = r#"
name = "tiny"
seed = 3

[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
snapshot = "first"

[[stage]]
name = "tokenizer"
kind = "tokenizer"
data = [{ from = "human" }]
"#;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn web(folder: &Path) -> Role {
    let mut command = capstan(["demoweb", "--listen-from", "127.0.0.1:0", "--seed", "7"]);
    command
        .arg("--world")
        .arg(root().join("tests/small/world.toml"))
        .arg("--annotations")
        .arg(folder.join("annotations"))
        .arg("--log")
        .arg(folder.join("requests.jsonl"));
    Role::start(&mut command, folder)
}

fn system(folder: &Path) -> Role {
    let mut command = capstan(["up", "--listen", "127.0.0.1:0", "--workers", "1"]);
    command
        .args(["--trainers", "0", "--store"])
        .arg(folder.join("store"))
        .current_dir(folder)
        .env(
            "CAPSTAN__IMPORT__ROOTS",
            import_roots(&folder.join("annotations")),
        );
    Role::start(&mut command, folder)
}

#[test]
fn a_run_is_planned_submitted_watched_and_needs_no_work_again() {
    let mut lines = Lines::expected_in(
        "e2e",
        "a_run_is_planned_submitted_watched_and_needs_no_work_again",
    );
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    lines.name("$DIR", folder.display());
    let mut web = web(folder);
    let hosts = web.ready["hosts"].as_object().unwrap().clone();
    assert!(hosts.len() >= 4, "{hosts:?}");
    let pipeline = folder.join("tiny.toml");
    std::fs::write(&pipeline, PIPELINE).unwrap();
    let mut system_role = system(folder);
    let url = system_role.url();
    lines.name("$ADDRESS", &url);
    let with = |args: &[&str]| -> Command {
        let mut command = capstan(args);
        command.args(["--coordinator", &url]);
        command
    };
    let run = |flags: &[&str]| succeed(with(&["run"]).args(flags).arg(&pipeline));

    let plan = json(&run(&["--plan", "--json"]));
    assert_eq!(plan["exists"], false, "{plan}");
    assert_eq!(plan["stages"][0]["stage"], "human");
    assert_eq!(plan["stages"][0]["done"], 0);
    assert_eq!(
        json(&succeed(&mut with(&["runs", "--json"]))),
        Value::Array(vec![])
    );

    let done = json(&run(&["--json"]));
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["stages"][0]["output"]["dataset"], "human@1");
    let id = done["run"].as_str().unwrap().to_owned();

    let plan = json(&run(&["--plan", "--json"]));
    assert_eq!(plan["exists"], true, "{plan}");
    for stage in plan["stages"].as_array().unwrap() {
        assert_eq!(stage["tasks"], stage["done"], "{stage}");
    }
    let again = run(&[]);
    assert_line(&again.stderr, ALL_COMMITTED);
    let watched = json(&succeed(&mut with(&["watch", &id, "--json"])));
    assert_eq!(watched["state"], "done");
    lines.add(&fail(&mut with(&["retry", &id]), 2));

    datasets_are_traced_and_exported(folder, &id, &mut lines);
    models_are_listed_and_exported(folder, &id, &mut lines);
    lines.check();
    assert!(system_role.terminate().success(), "a graceful stop");
    assert!(web.terminate().success(), "a graceful stop");
    a_restarted_system_lists_its_runs(folder, &id);
}

/// A command over the store in `folder`.
fn over_store(folder: &Path, args: &[&str]) -> Command {
    let mut command = capstan(args);
    command.arg("--store").arg(folder.join("store"));
    command
}

/// `dataset show`, `lineage` and `export` over the store of the run.
fn datasets_are_traced_and_exported(folder: &Path, run: &str, lines: &mut Lines) {
    let over = |args: &[&str]| over_store(folder, args);
    let shown = succeed(&mut over(&[
        "dataset", "show", "human", "--rows", "1", "--json",
    ]));
    let text = json(&shown)["texts"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let found = succeed(&mut over(&["dataset", "lineage", "human", &text, "--json"]));
    let found = &json(&found)[0];
    assert_eq!(found["text"], text.as_str());
    assert_eq!(found["versions"][0]["run"], run);
    assert_eq!(found["files"][0]["commit"]["stage"], "human", "{found}");
    let id = found["text_id"].as_str().unwrap();
    let by_id = succeed(&mut over(&["dataset", "lineage", "human", id]));
    assert!(String::from_utf8(by_id.stdout).unwrap().contains(&text));
    let mut unknown = over(&["dataset", "lineage", "human", "no such words"]);
    lines.add(&fail(&mut unknown, 2));

    let out = folder.join("exported");
    let mut export = over(&["dataset", "export", "human", "--json", "--layout", "flat"]);
    let exported = json(&succeed(export.arg(&out)));
    assert_eq!(exported["pictures"], 40, "{exported}");
    let mut again = over(&["dataset", "export", "human"]);
    lines.add(&fail(again.arg(&out), 2));
}

/// `model ls`, `export` and `import` over the store of the run.
fn models_are_listed_and_exported(folder: &Path, run: &str, lines: &mut Lines) {
    let over = |args: &[&str]| over_store(folder, args);
    let models = json(&succeed(&mut over(&["model", "ls", "--json"])));
    assert_eq!(models[0]["family"], "tokenizer");
    assert_eq!(models[0]["made_by"]["run"], run);
    let digest = models[0]["model"].as_str().unwrap();
    let vocabulary = folder.join("vocabulary");
    succeed(over(&["model", "export", &digest[..8]]).arg(&vocabulary));
    assert!(vocabulary.join("vocab.txt").is_file());
    assert!(!folder.join("vocabulary.partial").exists());
    let mut again = over(&["model", "export", &digest[..8]]);
    lines.add(&fail(again.arg(&vocabulary), 2));
    let mut unknown = over(&["model", "export", "zz"]);
    lines.add(&fail(unknown.arg(folder.join("other")), 2));
    let mut import = over(&["model", "import"]);
    lines.add(&fail(import.arg(&vocabulary), 6));
}

fn a_restarted_system_lists_its_runs(folder: &Path, run: &str) {
    let mut role = system(folder);
    let url = role.url();
    let listed = succeed(&mut capstan(["runs", "--json", "--coordinator", &url]));
    let listed = json(&listed);
    assert_eq!(listed[0]["run"], run);
    assert_eq!(listed[0]["state"], "done");
    assert!(role.terminate().success(), "a graceful stop");
}
