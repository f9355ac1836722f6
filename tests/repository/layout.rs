//! The layout of tests that CONTRIBUTING describes.

use cargo_metadata::TargetKind;

use crate::targets::{WORKSPACE, root};

/// Folders in `tests/`, by name.
fn folders() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("tests")).unwrap();
    let entries = entries.map(Result::unwrap);
    let folders = entries.filter(|entry| entry.path().is_dir());
    folders
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn unit_tests_of_a_module_are_in_its_folder() {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "*_tests.rs", "*/test.rs"])
        .current_dir(root())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed, "", "move these to <module>/tests.rs");
}

#[test]
fn contributing_describes_every_folder_of_tests() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let folders = folders();
    assert!(!folders.is_empty());
    for folder in folders {
        let is_described = text.contains(&format!("`tests/{folder}`"));
        assert!(
            is_described,
            "CONTRIBUTING does not describe tests/{folder}"
        );
    }
}

#[test]
fn a_suite_is_a_folder_with_a_main_file_and_the_name_of_its_target() {
    let tests = root().join("tests");
    let targets = WORKSPACE
        .packages
        .iter()
        .flat_map(|package| &package.targets);
    let targets = targets.filter(|target| target.kind.contains(&TargetKind::Test));
    let mut suites = 0;
    for target in targets {
        let path = target.src_path.as_std_path().canonicalize().unwrap();
        let Ok(path) = path.strip_prefix(tests.canonicalize().unwrap()) else {
            continue;
        };
        let expected = format!("{}/main.rs", target.name);
        assert_eq!(path.to_str(), Some(&*expected));
        suites += 1;
    }
    assert!(suites >= 7, "{suites} suites");
}

/// The patches are used by a script that CI does not run, so that lines which move would break them
/// unnoticed.
#[test]
fn every_revert_of_the_simulation_applies() {
    let folder = root().join("tests/simulation/reverts");
    let mut patches = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let patch = entry.unwrap().path();
        let check = std::process::Command::new("git")
            .args(["apply", "--check"])
            .arg(&patch)
            .current_dir(root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{}: {said}", patch.display());
        patches += 1;
    }
    assert!(patches >= 5, "{patches} patches");
}
