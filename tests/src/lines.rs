//! Error lines of commands, compared whole with a file of expected lines.
//!
//! A test adds the error of each command that fails; [`Lines::check`] compares all of them with
//! `tests/<suite>/lines/<test>.txt`. Values that differ between runs, such as folders and ports,
//! are replaced by a `$NAME`. After an error text was changed on purpose, write the files with
//! `CAPSTAN_WRITE_GOLDENS=1` set and read the diff.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fmt::Display;
use std::path::PathBuf;

use crate::harness::{error_lines, root};

/// Set to write the expected lines instead of comparing with them.
const WRITE: &str = "CAPSTAN_WRITE_GOLDENS";

/// The error lines of one test.
pub struct Lines {
    file: PathBuf,
    /// Values and what stands for them in the file.
    names: Vec<(String, &'static str)>,
    found: Vec<String>,
    is_checked: bool,
}

impl Lines {
    /// Lines that are expected in `tests/<suite>/lines/<test>.txt`.
    pub fn expected_in(suite: &str, test: &str) -> Self {
        Self {
            file: root().join(format!("tests/{suite}/lines/{test}.txt")),
            names: Vec::new(),
            found: Vec::new(),
            is_checked: false,
        }
    }

    /// Replaces a value by a name in lines that are added from now on.
    ///
    /// - `name`: with its `$`, such as `$DIR`.
    pub fn name(&mut self, name: &'static str, value: impl Display) {
        self.names.push((value.to_string(), name));
        // A path goes before the folder that it lies in.
        self.names
            .sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    }

    /// Adds the error that a failed command printed on stderr.
    ///
    /// # Panics
    /// If there is no error, or more than one.
    pub fn add(&mut self, stderr: &str) {
        let replace = |line: String, (value, name): &(String, &str)| line.replace(value, name);
        for line in error_lines(stderr) {
            let line = self.names.iter().fold(line.to_owned(), replace);
            self.found.push(line);
        }
    }

    /// Compares the lines with the expected ones, or writes them.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(mut self) {
        self.is_checked = true;
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(self.file.parent().unwrap()).unwrap();
            std::fs::write(&self.file, self.found.join("\n") + "\n").unwrap();
            return;
        }
        let shown = self.file.display();
        let expected = std::fs::read_to_string(&self.file)
            .unwrap_or_else(|error| panic!("{shown}: {error}; write it with {WRITE}=1"));
        if let Some(difference) = difference(&expected, &self.found) {
            panic!("{shown}: {difference}\nwrite it with {WRITE}=1 if the change is intended");
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let is_forgotten = !self.is_checked && !std::thread::panicking();
        assert!(!is_forgotten, "{}: not compared", self.file.display());
    }
}

/// The first line that differs.
fn difference(expected: &str, found: &[String]) -> Option<String> {
    let mut expected = expected.lines();
    let mut found = found.iter().map(String::as_str);
    for number in 1.. {
        let (expected, found) = (expected.next(), found.next());
        if expected != found {
            let shown = |line: Option<&str>| line.unwrap_or("(no line)").to_owned();
            let (expected, found) = (shown(expected), shown(found));
            return Some(format!("line {number}\n- {expected}\n+ {found}"));
        }
        if expected.is_none() {
            break;
        }
    }
    None
}

#[test]
fn a_line_that_differs_is_missing_or_is_left_over_is_a_difference() {
    let found = ["a".to_owned(), "b".to_owned()];
    assert_eq!(difference("a\nb\n", &found), None);
    let differs = |expected| difference(expected, &found).unwrap();
    assert_eq!(differs("a\nc\n"), "line 2\n- c\n+ b");
    assert_eq!(differs("a\n"), "line 2\n- (no line)\n+ b");
    assert_eq!(differs("a\nb\nc\n"), "line 3\n- c\n+ (no line)");
}

#[test]
fn values_are_replaced_by_names_the_longest_first() {
    let mut lines = Lines::expected_in("e2e", "none");
    lines.is_checked = true;
    lines.name("$DIR", "/tmp/x");
    lines.name("$OUT", "/tmp/x/out");
    lines.add("a log line\ncapstan: /tmp/x/out: is in /tmp/x\n/tmp/x: a second problem\n");
    assert_eq!(
        lines.found,
        ["capstan: $OUT: is in $DIR", "$DIR: a second problem"]
    );
}
