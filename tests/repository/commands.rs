//! Commands of cargo in Markdown, and whether each one finds what it names.

use std::collections::BTreeSet;

use cargo_metadata::{Package, TargetKind};

use crate::targets::{self, WORKSPACE};

/// The package that cargo takes where a command names none (`default-members`).
const DEFAULT_PACKAGE: &str = "capstan";

/// Flags of cargo whose next word is their value.
const WITH_VALUE: [&str; 8] = [
    "-p",
    "--package",
    "--test",
    "--bin",
    "--example",
    "--features",
    "--target-dir",
    "--jobs",
];

/// A command of cargo as a document shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As it is written.
    pub text: String,
    words: Vec<String>,
}

impl Command {
    /// `test`, `run`, `build` ...
    pub fn verb(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The value of one of these flags.
    fn value(&self, flags: &[&str]) -> Option<&str> {
        let at = self
            .words
            .iter()
            .position(|word| flags.contains(&&**word))?;
        self.words.get(at + 1).map(String::as_str)
    }

    /// The word that is neither the verb nor a flag nor a flag's value: what `cargo test` filters by.
    fn filter(&self) -> Option<&str> {
        let mut words = self.words.iter().skip(1);
        while let Some(word) = words.next() {
            if WITH_VALUE.contains(&&**word) {
                words.next();
            } else if !word.starts_with('-') {
                return Some(word);
            }
        }
        None
    }

    /// The packages that it is about; the error names one that does not exist.
    fn packages(&self) -> Result<Vec<&'static Package>, String> {
        if self.words.iter().any(|word| word == "--workspace") {
            return Ok(WORKSPACE.workspace_packages());
        }
        let name = self.value(&["-p", "--package"]).unwrap_or(DEFAULT_PACKAGE);
        let found = targets::package(name);
        let found = found.ok_or_else(|| format!("`{}`: no package `{name}`", self.text))?;
        Ok(vec![found])
    }

    /// What it names that does not exist, one sentence each.
    pub fn check(&self) -> Vec<String> {
        let packages = match self.packages() {
            Ok(packages) => packages,
            Err(missing) => return vec![missing],
        };
        let mut missing = Vec::new();
        for (flag, kind) in [
            ("--test", TargetKind::Test),
            ("--bin", TargetKind::Bin),
            ("--example", TargetKind::Example),
        ] {
            let Some(name) = self.value(&[flag]) else {
                continue;
            };
            let mut targets = packages.iter().flat_map(|package| &package.targets);
            if !targets.any(|target| target.name == name && target.kind.contains(&kind)) {
                missing.push(format!("`{}`: no target `{name}`", self.text));
            }
        }
        for feature in self.value(&["--features"]).into_iter() {
            let mut features = packages.iter().map(|package| &package.features);
            if !features.any(|features| features.contains_key(feature)) {
                missing.push(format!("`{}`: no feature `{feature}`", self.text));
            }
        }
        if self.verb() == "test" && missing.is_empty() && self.tests().is_empty() {
            missing.push(format!("`{}`: no test fits", self.text));
        }
        missing
    }

    /// Names of the tests that it runs.
    pub fn tests(&self) -> BTreeSet<String> {
        let packages = self.packages().unwrap_or_default();
        let target = self.value(&["--test"]);
        let names = packages
            .into_iter()
            .flat_map(|package| targets::tests(package, target));
        let filter = self.filter().unwrap_or_default();
        names.filter(|name| name.contains(filter)).collect()
    }
}

/// Commands of cargo in code blocks and code spans.
pub fn commands(markdown: &str) -> Vec<Command> {
    let mut found = Vec::new();
    for code in code(markdown) {
        let code = code.split(" # ").next().unwrap_or_default();
        for part in code.split("&&") {
            let Some((_, rest)) = part.split_once("cargo ") else {
                continue;
            };
            let words = rest.split_whitespace().map(str::to_owned);
            found.push(Command {
                text: part.trim().to_owned(),
                words: words.take_while(|word| word != "--").collect(),
            });
        }
    }
    found
}

/// Lines of code blocks, and code spans; a span may continue on the next line.
pub fn code(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prose = String::new();
    let mut is_block = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.push(line.to_owned());
        } else {
            prose.push_str(line.trim());
            prose.push(' ');
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    found.extend(spans.map(str::to_owned));
    found
}

#[test]
fn commands_that_name_nothing_are_reported() {
    let text = "```\ncargo test -p capstan-tests --test repository commands  # a remark\n```\n\
        Run `X=1 cargo build && cargo run -p nobody --bin gain -- DIR`, `cargo test\n\
        -p capstan-tests --test repository no_such_test`, `cargo run --features cuda --bin none`.";
    let findings: Vec<_> = commands(text).iter().map(Command::check).collect();
    let name = |text: &str, what: &str| vec![format!("`{text}`: {what}")];
    assert_eq!(
        findings,
        [
            vec![],
            vec![],
            name(
                "cargo run -p nobody --bin gain -- DIR",
                "no package `nobody`"
            ),
            name(
                "cargo test -p capstan-tests --test repository no_such_test",
                "no test fits"
            ),
            name("cargo run --features cuda --bin none", "no target `none`"),
        ]
    );
}
