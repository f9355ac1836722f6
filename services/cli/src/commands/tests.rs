//! Whole lines of common mistakes, from the arguments to the error.

use clap::Parser;

use crate::args::Args;
use crate::error::{Exit, ExpectedError};

/// The error of a command line.
fn error(arguments: &[&str]) -> ExpectedError {
    let program = std::iter::once(&"capstan");
    let args = Args::try_parse_from(program.chain(arguments)).unwrap();
    super::run(args).expect_err("it has a mistake")
}

#[track_caller]
fn assert_line(arguments: &[&str], exit: Exit, line: &str) {
    let error = error(arguments);
    assert_eq!(error.to_string(), line);
    assert_eq!(error.exit(), exit);
}

#[test]
fn a_pipeline_file_that_is_missing() {
    assert_line(
        &["run", "/no/such/pipeline.toml"],
        Exit::Configuration,
        "/no/such/pipeline.toml: No such file or directory (os error 2)",
    );
}

#[test]
fn a_store_that_is_missing() {
    assert_line(
        &["dataset", "ls", "--store", "/no/such/folder"],
        Exit::Unavailable,
        "/no/such/folder: no such store; name a folder or URL with --store",
    );
}

#[test]
fn a_coordinator_that_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let line = format!(
        "coordinator {address} is unreachable: Connection refused (os error 111); start one with \
         `capstan up`, or name another with --coordinator"
    );
    assert_line(
        &["runs", "--coordinator", &address],
        Exit::Unavailable,
        &line,
    );
}

#[test]
fn a_run_that_the_store_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().canonicalize().unwrap().display().to_string();
    let line = format!("store {store}: no run `nope`; it holds no runs");
    assert_line(&["report", "nope", "--store", &store], Exit::Usage, &line);
}

#[test]
fn a_value_that_a_flag_does_not_take() {
    let arguments = [
        "capstan", "dataset", "export", "web", "out", "--layout", "zip",
    ];
    let error = Args::try_parse_from(arguments).unwrap_err().to_string();
    let first = error.lines().next().unwrap();
    assert_eq!(first, "error: invalid value 'zip' for '--layout <LAYOUT>'");
}
