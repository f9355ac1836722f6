//! The workspace's packages and targets, and the names of the tests in each target.
//!
//! Names are read from the source as rustfmt writes it, so that no target has to be built.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};

/// What `cargo metadata` says of the workspace.
pub static WORKSPACE: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
});

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A package of the workspace.
pub fn package(name: &str) -> Option<&'static Package> {
    let mut packages = WORKSPACE.packages.iter();
    packages.find(|package| *package.name == name)
}

/// Names of the tests of a package, as `cargo test` prints them.
///
/// - `target`: the integration test to look in; `None` for every target.
pub fn tests(package: &Package, target: Option<&str>) -> Vec<String> {
    let looked_in = package.targets.iter().filter(|found| match target {
        Some(name) => found.is_test() && found.name == name,
        None => !found.kind.contains(&TargetKind::CustomBuild),
    });
    let mut names = Vec::new();
    for found in looked_in {
        collect(found.src_path.as_std_path(), true, "", &mut names);
    }
    names
}

/// Adds the tests of a file and of the modules that it declares.
///
/// - `is_root`: whether the file is `lib.rs`, `main.rs` or the like: its modules lie beside it.
/// - `module`: the path of the file's module, such as `machine::tests::`.
fn collect(file: &Path, is_root: bool, module: &str, names: &mut Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let folder = file.parent().unwrap_or(file);
    let folder = match is_root || file.ends_with("mod.rs") {
        true => folder.to_owned(),
        false => folder.join(file.file_stem().unwrap_or_default()),
    };
    // Inline modules that the current line is in, each with its indentation.
    let mut inline: Vec<(usize, &str)> = Vec::new();
    let mut is_test = false;
    let mut path: Option<PathBuf> = None;
    for line in text.lines() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if code == "}" && inline.last().is_some_and(|(at, _)| *at == indentation) {
            inline.pop();
        }
        let within: String = inline.iter().map(|(_, name)| format!("{name}::")).collect();
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(named) = code.strip_prefix("#[path = \"") {
            let named = named.trim_end_matches("\"]");
            path = Some(file.with_file_name(named));
        } else if let Some(name) = declared(code, "mod ", " {") {
            inline.push((indentation, name));
        } else if let Some(name) = declared(code, "mod ", ";") {
            let beside = folder.join(format!("{name}.rs"));
            let within_folder = folder.join(name).join("mod.rs");
            let found = path.take().unwrap_or(match beside.is_file() {
                true => beside,
                false => within_folder,
            });
            collect(&found, false, &format!("{module}{within}{name}::"), names);
        } else if is_test && let Some(name) = declared(code, "fn ", "(") {
            names.push(format!("{module}{within}{name}"));
            is_test = false;
        }
    }
}

/// The name between a keyword and what follows it, whatever the visibility.
fn declared<'a>(code: &'a str, keyword: &str, end: &str) -> Option<&'a str> {
    let (before, after) = code.split_once(keyword)?;
    let is_item = matches!(
        before,
        "" | "pub " | "pub(crate) " | "pub(super) " | "async "
    );
    let (name, _) = after.split_once(end)?;
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_item && is_name).then_some(name)
}

#[test]
fn tests_are_found_in_files_inline_modules_and_folders() {
    let names = tests(package("capstan-tests").unwrap(), Some("repository"));
    let own = "targets::tests_are_found_in_files_inline_modules_and_folders";
    assert!(names.iter().any(|name| name == own), "{names:?}");
    let names = tests(package("capstan-model").unwrap(), None);
    assert!(
        names.iter().any(|name| name.starts_with("blip::tests::")),
        "{names:?}"
    );
}
