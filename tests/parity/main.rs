//! Parity with public reference implementations.
//!
//! A case is a folder: a tiny model as the reference saved it, inputs, and the outputs of the
//! reference. `CAPSTAN_PARITY_CASES` names a folder of cases; the default is `tests/parity/cases`.
//! The class in a case's `meta.json` selects the implementation; an unknown class fails. Every case
//! prints one line:
//!
//! ```text
//! CAPSTAN_PARITY_CASES=<folder> cargo test --workspace parity -- --nocapture
//! ```
//! `CAPSTAN_PARITY_DEVICE` is `cpu` (default) or `cuda`, `CAPSTAN_PARITY_DTYPE` is `f32` (default) or
//! `bf16`, the type in which weights are stored. [`parity::Setup`] states the tolerances of each.

#[path = "mod.rs"]
mod parity;

use std::path::{Path, PathBuf};

/// The project's own cases.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/parity/cases");

#[test]
fn parity() {
    let folder = std::env::var_os("CAPSTAN_PARITY_CASES");
    let folder = folder.map_or_else(|| PathBuf::from(OWN), PathBuf::from);
    let setup = parity::Setup::from_env().unwrap_or_else(|error| panic!("{error}"));
    check(&folder, &setup);
}

#[test]
fn bf16_storage_stays_within_its_bounds() {
    check(Path::new(OWN), &parity::Setup::new("cpu", "bf16").unwrap());
}

fn check(folder: &Path, setup: &parity::Setup) {
    let run = parity::run_folder(folder, setup).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        run.failed.is_empty(),
        "{} of {} cases failed: {}",
        run.failed.len(),
        run.cases,
        run.failed.join(", ")
    );
}
