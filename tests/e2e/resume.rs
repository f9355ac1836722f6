//! A run that is killed and resumed ends equal to an undisturbed run.

use std::path::Path;

use crate::harness::{RUN, kill_when, outcome, small_demo, succeed};

/// Number of files in a stage's folder of the store that end in `suffix`.
fn count(out: &Path, stage: &str, suffix: &str) -> usize {
    let folder = out.join("store/runs").join(RUN).join(stage);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
        .count()
}

/// Whether the store holds a complete checkpoint of a training.
fn has_checkpoint(out: &Path, stage: &str) -> bool {
    let folder = out.join("store/checkpoints").join(RUN).join(stage);
    let steps = std::fs::read_dir(folder).into_iter().flatten().flatten();
    steps
        .into_iter()
        .any(|step| step.path().join("COMMIT").exists())
}

#[test]
fn a_killed_and_resumed_run_equals_an_undisturbed_run() {
    let temp = tempfile::tempdir().unwrap();
    let undisturbed = temp.path().join("undisturbed");
    succeed(&mut small_demo(&undisturbed));
    let expected = outcome(&undisturbed);
    assert!(expected.models.len() >= 8, "{expected:?}");

    // One run is killed twice: while a training runs, then while captions are written.
    let killed = temp.path().join("killed");
    kill_when(&killed, || has_checkpoint(&killed, "blip_web"));
    assert_eq!(
        count(&killed, "blip_web", ".commit.json"),
        0,
        "killed too late"
    );
    kill_when(&killed, || count(&killed, "caption", ".commit.json") > 0);
    succeed(&mut small_demo(&killed));
    assert_eq!(outcome(&killed), expected);
}
