//! Commands, tests, files and links in README, CONTRIBUTING and `docs/` exist. CHANGELOG is not
//! checked: it names what earlier versions had.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::commands::{code, commands};
use crate::targets::root;

/// Folders of the repository, as paths in documents begin.
const FOLDERS: [&str; 7] = [
    "proto/",
    "pipeline/",
    "services/",
    "deploy/",
    "docs/",
    "tests/",
    ".ci/",
];

/// Documents that are checked.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        "README.md",
        "CONTRIBUTING.md",
        "deploy/kubernetes/README.md",
    ]
    .map(|name| root().join(name))
    .into();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
    found
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn commands_in_documents_name_packages_targets_and_tests_that_exist() {
    let mut missing = Vec::new();
    for path in documents() {
        for command in commands(&read(&path)) {
            let findings = command.check().into_iter();
            missing.extend(findings.map(|finding| format!("{}: {finding}", path.display())));
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn paths_in_documents_exist() {
    let mut missing = Vec::new();
    for path in documents() {
        let text = read(&path);
        for span in code(&text) {
            let word = span.split_whitespace().next().unwrap_or_default();
            let is_path = FOLDERS.iter().any(|folder| word.starts_with(folder));
            // `<crate>` and `*` stand for many files.
            if is_path && !word.contains(['<', '*']) && !root().join(word).exists() {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
        for link in links(&text) {
            let is_here = !link.contains("://") && !link.starts_with('#');
            let file = link.split('#').next().unwrap_or_default();
            if is_here && !path.with_file_name(file).exists() {
                missing.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

/// Targets of `[text](target)`.
fn links(markdown: &str) -> impl Iterator<Item = &str> {
    let after = markdown.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0))
}

#[test]
fn each_guarantee_of_the_readme_names_its_tests() {
    let readme = read(&root().join("README.md"));
    let (_, section) = readme.split_once("\n## Guarantees\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let guarantees: Vec<&str> = section.split("\n- ").skip(1).collect();
    assert_eq!(guarantees.len(), 7, "guarantees of the README");
    for guarantee in guarantees {
        let commands = commands(guarantee);
        let tests = commands.iter().filter(|command| command.verb() == "test");
        let held_by: BTreeSet<String> = tests.flat_map(|command| command.tests()).collect();
        let title = guarantee.lines().next().unwrap_or_default();
        assert!(!held_by.is_empty(), "names no test: {title}");
    }
}

#[test]
fn the_readme_has_its_two_commands_in_fewer_than_200_lines() {
    let readme = read(&root().join("README.md"));
    assert!(readme.lines().count() < 200);
    for command in ["cargo run --release -- demo", "cargo test --workspace"] {
        assert!(readme.contains(command), "the README lost `{command}`");
    }
}
