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

mod array;
mod blip;
mod captions;
mod case;
mod clip;
mod compare;
mod preprocess;
mod processors;

use case::Case;
use compare::Worst;
use std::path::PathBuf;

/// Computed outputs by name.
type Outputs = Vec<(String, array::Array)>;

#[test]
fn parity() {
    let folder = std::env::var_os("CAPSTAN_PARITY_CASES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/parity/cases")),
        PathBuf::from,
    );
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.join("meta.json").is_file())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{}: no cases", folder.display());
    let pool = capstan_model::ComputePool::new(1).expect("a pool");
    let mut failed = Vec::new();
    for path in &cases {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match pool.install(|| run_caught(path)) {
            Ok(worst) => println!("{name}: ok, {worst}"),
            Err(difference) => {
                println!("{name}: {difference}");
                failed.push(name);
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed: {}",
        failed.len(),
        cases.len(),
        failed.join(", ")
    );
}

/// Runs one case. A panic fails this case alone.
fn run_caught(path: &std::path::Path) -> Result<Worst, String> {
    std::panic::catch_unwind(|| run(path)).unwrap_or_else(|panic| {
        let text = capstan_runtime::panic::text(&*panic);
        Err(format!("the program panicked: {text}"))
    })
}

/// Runs one case. The error lists the outputs that differ.
fn run(path: &std::path::Path) -> Result<Worst, String> {
    let case = Case::read(path)?;
    let outputs = compute(&case)?;
    compare::compare(&case, &outputs)
}

fn compute(case: &Case) -> Result<Outputs, String> {
    match case.class() {
        "transformers.CLIPModel" => clip::compute(case),
        "transformers.BlipForConditionalGeneration" => blip::caption(case),
        "transformers.BlipForImageTextRetrieval" => blip::retrieval(case),
        "open_clip.transform.image_transform" => preprocess::compute(case),
        "transformers.CLIPImageProcessor" | "transformers.BlipImageProcessor" => {
            preprocess::processors(case)
        }
        "pycocoevalcap" => captions::compute(case),
        "transformers.generation.logits_process" => processors::compute(case),
        unknown => Err(format!("no implementation of class `{unknown}`")),
    }
}
