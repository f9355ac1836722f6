//! Holds the crates against the design's table of arrows and the layout that everyone relies on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, Package, Target};

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
    ("proto", &[]),
    ("runtime", &[]),
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

/// Dependencies that only generated code names.
const GENERATED: &[(&str, &str)] = &[("capstan-proto", "prost"), ("capstan-proto", "tonic_prost")];

#[test]
fn every_dependency_is_used_by_the_package_that_declares_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut unused = unused_dependencies(root);
    for (package, name) in GENERATED {
        let expected = format!("{package}: {name}");
        let at = unused.iter().position(|found| *found == expected);
        unused.remove(at.unwrap_or_else(|| panic!("`{expected}` needs no exception any more")));
    }
    assert!(
        unused.is_empty(),
        "remove these dependencies, or make them dev-dependencies if only tests use them: \
         {unused:#?}"
    );
}

#[test]
fn every_dependency_of_the_workspace_has_a_member_that_inherits_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &Path| -> toml::Table {
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut inherited = BTreeSet::new();
    for package in packages(root) {
        let manifest = read(package.manifest_path.as_std_path());
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(table).and_then(toml::Value::as_table);
            inherited.extend(names.into_iter().flat_map(|names| names.keys().cloned()));
        }
    }
    let shared = &read(&root.join("Cargo.toml"))["workspace"]["dependencies"];
    let stated: BTreeSet<String> = shared.as_table().unwrap().keys().cloned().collect();
    let left: Vec<&String> = stated.difference(&inherited).collect();
    assert!(left.is_empty(), "no member inherits {left:?}");
}

#[test]
fn an_unused_dependency_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "Cargo.toml",
        r#"
        package = { name = "planted", version = "0.1.0", edition = "2024" }
        [dependencies]
        used = "1"
        used-twice = "1"
        renamed = { package = "other", version = "1" }
        commented = "1"
        module = "1"
        for-tests = "1"
        [dev-dependencies]
        in-tests = "1"
        in-library = "1"
        nowhere = "1"
        [build-dependencies]
        for-build = "1"
        not-for-build = "1"
        "#,
    );
    write(
        "src/lib.rs",
        "use renamed as r;\nuse used::Item; // commented::Item\nuse crate::module::Item;\n\
         fn f() { used_twice::f(); in_library::f(); not_for_build::f(); unused::f() }",
    );
    write("src/tests.rs", "use for_tests::Item;");
    write("tests/one.rs", "use in_tests::Item;");
    write("build.rs", "fn main() { for_build::run() }");
    assert_eq!(
        unused_dependencies(folder.path()),
        [
            "planted: commented",
            "planted: for_tests",
            "planted: module",
            "planted: not_for_build",
            "planted: nowhere",
        ]
    );
}

/// The packages of the workspace in `root`. Nothing is resolved, so nothing is fetched.
fn packages(root: &Path) -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    metadata.packages
}

/// Each dependency whose crate no source file names, as `package: crate`, sorted.
fn unused_dependencies(root: &Path) -> Vec<String> {
    let mut unused = Vec::new();
    for package in packages(root) {
        let sources: Vec<(Uses, String)> = package.targets.iter().flat_map(sources_of).collect();
        for dependency in &package.dependencies {
            let name = dependency.rename.as_ref().unwrap_or(&dependency.name);
            let name = name.replace('-', "_");
            let mut relevant = sources.iter().filter(|(uses, _)| uses.may(dependency));
            if !relevant.any(|(_, source)| names_crate(source, &name)) {
                unused.push(format!("{}: {name}", package.name));
            }
        }
    }
    unused.sort();
    unused
}

/// Which dependencies a source file can use.
#[derive(Clone, Copy, PartialEq)]
enum Uses {
    /// Code of the library or a program: what dependents compile too.
    Normal,
    /// Tests see everything but build dependencies.
    Tests,
    /// The build script.
    Build,
}

impl Uses {
    fn may(self, dependency: &Dependency) -> bool {
        match dependency.kind {
            DependencyKind::Normal => self == Self::Normal,
            DependencyKind::Build => self == Self::Build,
            _ => self != Self::Build,
        }
    }
}

/// The source files of a target: all files of its root file's folder.
fn sources_of(target: &Target) -> Vec<(Uses, String)> {
    let path = target.src_path.as_std_path();
    if target.is_custom_build() {
        return vec![(Uses::Build, std::fs::read_to_string(path).unwrap())];
    }
    let is_code = !(target.is_test() || target.is_bench() || target.is_example());
    let root = path.parent().unwrap();
    let mut folders = vec![root.to_owned()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root).unwrap();
                let in_tests = inside
                    .iter()
                    .any(|part| part == "tests" || part == "tests.rs");
                let uses = if is_code && !in_tests {
                    Uses::Normal
                } else {
                    Uses::Tests
                };
                sources.push((uses, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources
}

/// Whether `source` has a path that starts at the crate `name`, or imports it. Line comments do
/// not count.
fn names_crate(source: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.match_indices(name).any(|(at, _)| {
            let (before, after) = (&code[..at], &code[at + name.len()..]);
            let starts = !before.ends_with(is_word) && !before.ends_with("::");
            let imports = before.trim_end().ends_with("use");
            let whole = after.starts_with(';') || after.starts_with(" as ");
            starts && (after.starts_with("::") || (imports && whole))
        })
    })
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
