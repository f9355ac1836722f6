//! Runs the `capstan` binary and reads what it leaves.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use capstan_dataset::{Store, commits, compare, versions};
use capstan_plan::id::{Digest, ModelDigest, RunId};
use serde_json::Value;

/// Limit for a small demo on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Seed of small runs.
pub const SEED: &str = "7";

/// Id of the run of a small demo.
pub const RUN: &str = "small-7";

/// The line that a command prints if its run had no task to lease.
pub const ALL_COMMITTED: &str = "nothing was left to do: every task is committed";

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// The binary. Cargo builds it for the targets of its own package and sets this variable for them;
/// a target that is run by hand finds the binary beside itself.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_capstan") {
        return path.into();
    }
    let target = std::env::current_exe().unwrap();
    let folder = target.parent().and_then(Path::parent).unwrap();
    folder.join("capstan")
}

/// A command of the binary with these arguments and no input.
pub fn capstan<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command
}

/// This folder as the value of `CAPSTAN__IMPORT__ROOTS`.
pub fn import_roots(folder: &Path) -> String {
    format!("[{:?}]", folder.display().to_string())
}

/// A demo of the small world and pipeline into `out`.
pub fn small_demo(out: &Path) -> Command {
    demo(out, &root().join("tests/small/pipeline.toml"))
}

/// A demo of this pipeline over the small world into `out`.
pub fn demo(out: &Path, pipeline: &Path) -> Command {
    let mut command = capstan(["demo", "--seed", SEED, "--world"]);
    command.arg(small_world()).arg("--pipeline").arg(pipeline);
    command.arg("--out").arg(out);
    command
}

/// The world file of small runs.
pub fn small_world() -> PathBuf {
    root().join("tests/small/world.toml")
}

/// Runs a command to its end and returns its output.
///
/// # Panics
/// With the output, if the command fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command that has to fail and returns its stderr.
///
/// # Panics
/// If the exit code is not `exit`.
pub fn fail(command: &mut Command, exit: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{command:?}\n{stderr}");
    stderr
}

/// The one error line in the stderr of a failed command.
///
/// # Panics
/// As [`error_lines`], or if the error has more lines.
pub fn one_line(stderr: &str) -> &str {
    let lines = error_lines(stderr);
    assert_eq!(lines.len(), 1, "not one error line:\n{stderr}");
    lines[0]
}

/// The error in the stderr of a failed command: one line, or one per problem of a pipeline file. Log
/// events, which are JSON, are left out.
///
/// # Panics
/// If there is no error, or more than one.
pub fn error_lines(stderr: &str) -> Vec<&str> {
    let is_first = |line: &&str| line.starts_with("capstan: ");
    let errors = stderr.lines().filter(is_first).count();
    assert_eq!(errors, 1, "not one error:\n{stderr}");
    let lines = stderr.lines().skip_while(|line| !is_first(line));
    lines.filter(|line| !line.starts_with('{')).collect()
}

/// Checks that a command printed a line.
///
/// # Panics
/// With the output, if no line is equal to `line`.
#[track_caller]
pub fn assert_line(output: &[u8], line: &str) {
    let text = String::from_utf8_lossy(output);
    assert!(text.lines().any(|found| found == line), "{text}");
}

/// Starts a small demo and kills it with SIGKILL as soon as `reached` returns true.
pub fn kill_when(out: &Path, reached: impl Fn() -> bool) {
    let mut child: Child = small_demo(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !reached() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the demo ended ({status}) before it could be killed");
        }
        assert!(began.elapsed() < LIMIT, "not reached within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `summary.json` of a demo.
pub fn summary(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap()
}

/// What two equal runs have in common: the rows of every dataset's newest version without times, and
/// the models by stage.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// Newest versions, each with the digest of its rows.
    pub datasets: Vec<(String, Digest)>,
    /// Models by stage.
    pub models: Vec<(String, ModelDigest)>,
    /// Number of commits.
    pub commits: usize,
}

/// The outcome of the demo in `out`.
pub fn outcome(out: &Path) -> Outcome {
    let store = Store::open(&out.join("store").display().to_string()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(outcome_in(&store, RUN))
}

/// The outcome of the only run in a store.
pub async fn outcome_in(store: &Store, run: &str) -> Outcome {
    let mut datasets = Vec::new();
    for dataset in versions::datasets(store).await.unwrap() {
        let version = versions::latest(store, &dataset).await.unwrap().unwrap();
        let digest = compare::digest(store, &version).await.unwrap();
        datasets.push((version.to_string(), digest));
    }
    let commits = commits::of_run(store, &RunId::from(run)).await.unwrap();
    let model = |commit: &capstan_plan::commit::Commit| {
        commit
            .outputs
            .model
            .map(|model| (commit.stage.to_string(), model))
    };
    let models = commits.iter().filter_map(model).collect();
    Outcome {
        datasets,
        models,
        commits: commits.len(),
    }
}
