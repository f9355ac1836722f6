//! Equal runs end equal, and so does one that was killed and started again.

use std::path::Path;

use crate::harness::{RUN, kill_when, outcome, small_demo, succeed};

/// Files of a stage's folder in the store that end in `suffix`.
fn count(out: &Path, stage: &str, suffix: &str) -> usize {
    let folder = out.join("store/runs").join(RUN).join(stage);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
        .count()
}

/// Whether a training has put a checkpoint of at least one step into the store.
fn has_checkpoint(out: &Path, stage: &str) -> bool {
    let folder = out.join("store/checkpoints").join(RUN).join(stage);
    let steps = std::fs::read_dir(folder).into_iter().flatten().flatten();
    steps
        .into_iter()
        .any(|step| step.path().join("COMMIT").exists())
}

#[test]
fn runs_agree_killed_and_resumed_or_not() {
    let temp = tempfile::tempdir().unwrap();
    let undisturbed = temp.path().join("undisturbed");
    succeed(&mut small_demo(&undisturbed));
    let expected = outcome(&undisturbed);
    assert!(expected.models.len() >= 8, "{expected:?}");

    // Killed in mid-caption, then in mid-training, in one folder.
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
