//! Running the binary, and reading what it leaves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use capstan_dataset::{Store, commits, compare, versions};
use capstan_plan::id::{Digest, ModelDigest, RunId};
use serde_json::Value;

/// Longest that a small demo may take on a busy machine before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Id of the run of a small demo with seed 7.
pub const RUN: &str = "small-7";

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The binary with these arguments.
pub fn capstan<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capstan"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A small demo into `out`.
pub fn small_demo(out: &Path) -> Command {
    let small = root().join("tests/small");
    let mut command = capstan(["demo", "--seed", "7", "--world"]);
    command
        .arg(small.join("world.toml"))
        .arg("--pipeline")
        .arg(small.join("pipeline.toml"));
    command.arg("--out").arg(out);
    command
}

/// Runs to the end and gives the output; panics with it where it fails.
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

/// Runs to the end and gives stderr; panics where the exit code is another.
pub fn fail(command: &mut Command, exit: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{command:?}\n{stderr}");
    stderr
}

/// The one line that a failed command leaves.
pub fn one_line(stderr: &str) -> &str {
    let lines: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("capstan: "))
        .collect();
    assert_eq!(lines.len(), 1, "not one clear line:\n{stderr}");
    lines[0]
}

/// Starts a small demo and kills it with SIGKILL as soon as `reached` says so.
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
        assert!(began.elapsed() < LIMIT, "the moment to kill never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `summary.json` of a demo.
pub fn summary(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap()
}

/// What two runs must share: rows of every dataset's newest version without times, and models by
/// stage.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub datasets: Vec<(String, Digest)>,
    pub models: Vec<(String, ModelDigest)>,
    pub commits: usize,
}

/// The outcome of the demo in `out`.
pub fn outcome(out: &Path) -> Outcome {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = Store::open(&out.join("store").display().to_string()).unwrap();
        let mut datasets = Vec::new();
        for dataset in versions::datasets(&store).await.unwrap() {
            let version = versions::latest(&store, &dataset).await.unwrap().unwrap();
            let digest = compare::digest(&store, &version).await.unwrap();
            datasets.push((version.to_string(), digest));
        }
        let commits = commits::of_run(&store, &RunId::from(RUN)).await.unwrap();
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
    })
}
