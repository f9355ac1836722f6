//! `tests/cuda/compare.sh` on a machine without a GPU.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::files;

#[test]
fn the_script_reports_in_one_line_that_there_is_no_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("nvidia-smi");
    std::fs::write(&first, "#!/bin/sh\nexit 9\n").unwrap();
    std::fs::set_permissions(&first, PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(files::root().join("tests/cuda/compare.sh"))
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert_eq!(
        said,
        "compare.sh: nvidia-smi lists no GPU on this machine: nothing was built and nothing compared\n"
    );
    assert!(output.stdout.is_empty());
}
