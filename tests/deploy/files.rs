//! The files under `deploy/`, and settings that none of them may contain.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The text of a file, by its path from the root.
pub fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file under a folder, recursively, sorted.
fn every_file(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            every_file(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Lines that allow access without certificates.
pub fn insecure(name: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| {
            let line = line.to_ascii_lowercase().replace([' ', '"', '\''], "");
            let names_flag = line.contains("--insecure");
            let sets_it = ["insecure=true", "insecure:true", "insecure,value:true"]
                .iter()
                .any(|set| line.contains(set));
            names_flag || sets_it
        })
        .map(|(at, line)| {
            format!(
                "{name}:{}: `{}` allows access without certificates",
                at + 1,
                line.trim()
            )
        })
        .collect()
}

#[test]
fn no_file_under_deploy_is_insecure() {
    let root = root();
    let mut files = Vec::new();
    every_file(&root.join("deploy"), &mut files);
    assert!(files.len() > 10, "only {} files", files.len());
    let mut findings = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        findings.extend(insecure(&name, &text));
    }
    super::assert_none(&findings);
}
