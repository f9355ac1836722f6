//! Dependencies: each one is used, and the benchmarks share the program's.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, Package, Target};

use crate::targets::{WORKSPACE, root};

/// Dependencies that no source names, and why they are declared.
const UNNAMED: &[(&str, &str, &str)] = &[
    ("capstan-proto", "prost", GENERATED),
    ("capstan-proto", "tonic_prost", GENERATED),
    ("capstan-tests", "capstan_coordinator", UNIFICATION),
    ("capstan-tests", "capstan_demoweb", UNIFICATION),
    ("capstan-tests", "capstan_evaluate", PARITY),
    ("capstan-tests", "capstan_trainer", UNIFICATION),
    ("capstan-tests", "capstan_worker", UNIFICATION),
    ("capstan-tests", "comfy_table", UNIFICATION),
];
const GENERATED: &str = "the build script generates the code that names it";
const PARITY: &str = "the parity cases, which are a part of the program `models`, name it";
const UNIFICATION: &str =
    "the features of the benchmarks' crates must equal those of the program's";

#[test]
fn every_dependency_is_used_by_the_package_that_declares_it() {
    let mut unused = unused_dependencies(&WORKSPACE.packages);
    for (package, name, reason) in UNNAMED {
        let expected = format!("{package}: {name}");
        let at = unused.iter().position(|found| *found == expected);
        unused.remove(at.unwrap_or_else(|| panic!("`{expected}` is named or gone: {reason}")));
    }
    assert!(
        unused.is_empty(),
        "remove these dependencies, or make them dev-dependencies if only tests use them: \
         {unused:#?}"
    );
}

#[test]
fn every_dependency_of_the_workspace_has_a_member_that_inherits_it() {
    let read = |path: &Path| -> toml::Table {
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut inherited = BTreeSet::new();
    for package in &WORKSPACE.packages {
        let manifest = read(package.manifest_path.as_std_path());
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(table).and_then(toml::Value::as_table);
            inherited.extend(names.into_iter().flat_map(|names| names.keys().cloned()));
        }
    }
    let shared = &read(&root().join("Cargo.toml"))["workspace"]["dependencies"];
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
    let metadata = MetadataCommand::new()
        .manifest_path(folder.path().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    assert_eq!(
        unused_dependencies(&metadata.packages),
        [
            "planted: commented",
            "planted: for_tests",
            "planted: module",
            "planted: not_for_build",
            "planted: nowhere",
        ]
    );
}

/// Benchmarks run after `cargo build --release`; a crate with other features would compile again.
#[test]
fn the_benchmarks_compile_no_crate_with_features_that_the_program_lacks() {
    let program = resolved_features("capstan");
    let benchmarks = resolved_features("capstan-tests");
    let ours = |line: &&String| line.starts_with("capstan-tests ");
    let more: Vec<_> = benchmarks
        .difference(&program)
        .filter(|line| !ours(line))
        .collect();
    assert!(benchmarks.len() > 100, "{benchmarks:?}");
    assert!(
        more.is_empty(),
        "add to the dependencies of capstan-tests what brings the program its features: {more:#?}"
    );
}

/// Each crate that a package's programs are built from, as `name version [features]`.
fn resolved_features(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal,build"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p} [{f}]"])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    text.lines().map(str::to_owned).collect()
}

/// Each dependency whose crate no source file names, as `package: crate`, sorted.
fn unused_dependencies(packages: &[Package]) -> Vec<String> {
    let mut unused = Vec::new();
    for package in packages {
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
