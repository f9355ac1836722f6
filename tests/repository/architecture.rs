//! Holds the crates against the design's table of arrows and the layout that everyone relies on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Every arrow that may be drawn. A room that is not here may depend on none of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("coordinator", &["proto", "runtime", "plan", "dataset"]),
    (
        "worker",
        &[
            "proto", "runtime", "lease", "plan", "dataset", "model", "crawl", "import", "curate",
            "capfilt", "evaluate",
        ],
    ),
    ("lease", &["proto", "runtime", "plan", "dataset"]),
    (
        "trainer",
        &[
            "proto",
            "runtime",
            "lease",
            "plan",
            "dataset",
            "model",
            "collective",
            "train",
            "evaluate",
        ],
    ),
    ("demoweb", &["runtime"]),
    ("crawl", &["plan", "dataset"]),
    ("import", &["plan", "dataset", "crawl"]),
    ("curate", &["plan", "dataset"]),
    ("capfilt", &["plan", "dataset", "model"]),
    ("evaluate", &["plan", "dataset", "model"]),
    ("train", &["plan", "dataset", "model", "collective"]),
    ("report", &["plan", "dataset"]),
    ("dataset", &["plan"]),
    ("plan", &[]),
    ("model", &[]),
    ("collective", &[]),
    // Conversions between messages and `plan` exist once; `[worker] roles` names roles of `plan`.
    ("proto", &["plan"]),
    ("runtime", &["plan"]),
];

/// Libraries that a room must never meet, however indirectly it would be handy.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("plan", &["tokio", "tonic", "burn-core", "object_store"]),
    ("crawl", &["burn-core", "tonic", "clap"]),
    ("import", &["burn-core", "tonic", "clap"]),
    ("curate", &["burn-core", "tonic", "clap"]),
    ("dataset", &["burn-core", "tonic", "clap"]),
    ("model", &["tonic", "clap", "tokio"]),
    ("collective", &["tonic", "clap", "tokio"]),
    ("train", &["tonic", "clap", "tokio"]),
    ("capfilt", &["tonic", "clap"]),
    ("evaluate", &["tonic", "clap"]),
    ("report", &["tonic", "clap", "burn-core"]),
    ("coordinator", &["burn-core"]),
];

fn room(package: &str) -> Option<&str> {
    package.strip_prefix("capstan-")
}

#[test]
fn arrows_between_rooms_are_those_of_the_design() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let allowed: BTreeMap<_, BTreeSet<_>> = ARROWS
        .iter()
        .map(|(from, to)| (*from, to.iter().copied().collect()))
        .collect();
    let forbidden: BTreeMap<_, _> = FORBIDDEN.iter().copied().collect();
    let mut rooms = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(from) = room(&package.name) else {
            continue;
        };
        if from == "tests" {
            continue;
        }
        rooms.insert(from.to_owned());
        let Some(to) = allowed.get(from) else {
            wrong.push(format!("`{from}` is no room of the design"));
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.kind == DependencyKind::Development {
                continue;
            }
            match room(&dependency.name) {
                Some(other) if !to.contains(other) => wrong.push(format!("{from} -> {other}")),
                None if forbidden
                    .get(from)
                    .is_some_and(|no| no.contains(&&*dependency.name)) =>
                {
                    wrong.push(format!("{from} -> {}", dependency.name));
                }
                _ => {}
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that the design does not draw: {wrong:?}"
    );
    let drawn: BTreeSet<_> = ARROWS.iter().map(|(from, _)| (*from).to_owned()).collect();
    assert_eq!(rooms, drawn, "rooms and the table of arrows differ");
}

#[test]
fn the_top_level_holds_what_was_agreed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let agreed = BTreeSet::from([
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs",
        "proto",
        "pipeline",
        "services",
        "deploy",
        "tests",
        "clippy.toml",
    ]);
    let tracked = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .unwrap();
    if !tracked.status.success() {
        eprintln!("not a git checkout: the top level is not compared");
        return;
    }
    let names: BTreeSet<String> = String::from_utf8(tracked.stdout)
        .unwrap()
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(|path| path.split('/').next().unwrap_or(path).to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let strangers: Vec<_> = names
        .iter()
        .filter(|name| !agreed.contains(name.as_str()))
        .collect();
    assert!(
        strangers.is_empty(),
        "not agreed at the top level: {strangers:?}"
    );
}
