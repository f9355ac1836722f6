//! Recipe hashes and run ids of the shipped pipelines, held to files.
//!
//! A recipe decides whether an earlier run's commit is adopted, so a hash that changes makes every
//! user's finished work run again. When a change is on purpose, raise the `VERSION` of the kinds
//! that it concerns and write the files again with
//! `CAPSTAN_WRITE_GOLDENS=1 cargo test --workspace golden`; the diff then shows those kinds alone.

use super::*;

const DEMO: &str = include_str!("../../../../../deploy/pipelines/demo.toml");
const FULL: &str = include_str!("../../../../../services/cli/src/demo/full.toml");
const CAPFILT: &str = include_str!("../../../../../deploy/pipelines/capfilt.toml");
const CAPTION_FOLDER: &str = include_str!("../../../../../deploy/pipelines/caption-folder.toml");

/// Every task of a pipeline with its recipe, one a line, the run id first.
fn recipes(text: &str) -> String {
    let pipeline = Pipeline::from_toml(text, "golden.toml").unwrap();
    let (_, tasks) = work_through_all(&pipeline, pipeline.seed);
    let mut lines = vec![format!("run {}", pipeline.run_id())];
    for name in pipeline.order() {
        let kind = pipeline.stage(&name).unwrap().kind.name();
        let tasks = tasks[&name].iter();
        lines.extend(tasks.map(|task| format!("{kind} {name}/{} {}", task.shard, task.recipe)));
    }
    lines.join("\n") + "\n"
}

fn holds(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/expand/tests/golden")
        .join(file);
    let found = recipes(text);
    if std::env::var_os("CAPSTAN_WRITE_GOLDENS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<String> = golden
        .lines()
        .zip(found.lines())
        .filter(|(golden, found)| golden != found)
        .map(|(golden, found)| format!("- {golden}\n+ {found}"))
        .collect();
    assert!(
        changed.is_empty() && golden.lines().count() == found.lines().count(),
        "{file} no longer holds:\n{}",
        changed.join("\n")
    );
}

#[test]
fn golden_recipes_of_the_demo() {
    holds("demo.txt", &format!("{DEMO}\n{FULL}"));
}

#[test]
fn golden_recipes_of_capfilt() {
    holds("capfilt.txt", CAPFILT);
}

#[test]
fn golden_recipes_of_caption_folder() {
    holds("caption-folder.txt", CAPTION_FOLDER);
}
