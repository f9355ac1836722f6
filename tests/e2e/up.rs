//! A system that stays: runs are planned, submitted, watched, done again without work; what they
//! made is followed back and brought out.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{capstan, fail, import_roots, one_line, root, succeed};
use crate::process::Role;

/// An import and a vocabulary: a run of seconds.
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
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let mut web = web(folder);
    let hosts = web.ready["hosts"].as_object().unwrap().clone();
    assert!(hosts.len() >= 4, "{hosts:?}");
    let pipeline = folder.join("tiny.toml");
    std::fs::write(&pipeline, PIPELINE).unwrap();
    let mut system_role = system(folder);
    let url = system_role.url();
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

    let told = json(&run(&["--json"]));
    assert_eq!(told["state"], "done", "{told}");
    assert_eq!(told["stages"][0]["output"]["dataset"], "human@1");
    let id = told["run"].as_str().unwrap().to_owned();

    let plan = json(&run(&["--plan", "--json"]));
    assert_eq!(plan["exists"], true, "{plan}");
    for stage in plan["stages"].as_array().unwrap() {
        assert_eq!(stage["tasks"], stage["done"], "{stage}");
    }
    let again = run(&[]);
    let stderr = String::from_utf8(again.stderr).unwrap();
    assert!(stderr.contains("nothing was left to do"), "{stderr}");
    let watched = json(&succeed(&mut with(&["watch", &id, "--json"])));
    assert_eq!(watched["state"], "done");
    let stderr = fail(&mut with(&["retry", &id]), 2);
    assert!(one_line(&stderr).contains(&id), "{stderr}");

    tools_find_what_it_made(folder, &id);
    assert!(system_role.terminate().success(), "a graceful stop");
    assert!(web.terminate().success(), "a graceful stop");
    a_system_that_comes_back_knows_its_runs(folder, &id);
}

/// `dataset lineage` and `export`, `model ls` and `export`, over the store that was left.
fn tools_find_what_it_made(folder: &Path, run: &str) {
    let store = folder.join("store");
    let over = |args: &[&str]| {
        let mut command = capstan(args);
        command.arg("--store").arg(&store);
        command
    };
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
    let stderr = fail(
        &mut over(&["dataset", "lineage", "human", "no such words"]),
        2,
    );
    assert!(one_line(&stderr).contains("no such words"), "{stderr}");

    let out = folder.join("exported");
    let mut export = over(&["dataset", "export", "human", "--json", "--layout", "flat"]);
    let exported = json(&succeed(export.arg(&out)));
    assert_eq!(exported["pictures"], 40, "{exported}");
    let mut again = over(&["dataset", "export", "human"]);
    let stderr = fail(again.arg(&out), 2);
    assert!(one_line(&stderr).contains("exported"), "{stderr}");

    let models = json(&succeed(&mut over(&["model", "ls", "--json"])));
    assert_eq!(models[0]["family"], "tokenizer");
    assert_eq!(models[0]["made_by"]["run"], run);
    let digest = models[0]["model"].as_str().unwrap();
    let vocabulary = folder.join("vocabulary");
    succeed(over(&["model", "export", &digest[..8]]).arg(&vocabulary));
    assert!(vocabulary.join("vocab.txt").is_file());
    assert!(!folder.join("vocabulary.partial").exists());
    fail(over(&["model", "export", &digest[..8]]).arg(&vocabulary), 2);
    fail(
        over(&["model", "export", "zz"]).arg(folder.join("other")),
        2,
    );
    fail(over(&["model", "import"]).arg(&vocabulary), 6);
}

fn a_system_that_comes_back_knows_its_runs(folder: &Path, run: &str) {
    let mut role = system(folder);
    let url = role.url();
    let listed = succeed(&mut capstan(["runs", "--json", "--coordinator", &url]));
    let listed = json(&listed);
    assert_eq!(listed[0]["run"], run);
    assert_eq!(listed[0]["state"], "done");
    assert!(role.terminate().success(), "a graceful stop");
}
