//! Cases of public reference implementations: reads them, computes their outputs with the product and
//! compares. The test `parity` and the program `models` run them.

mod array;
mod blip;
mod blip_training;
mod captions;
mod case;
mod clip;
mod clip_training;
mod compare;
mod losses;
mod open_clip;
mod preprocess;
mod processors;
pub mod released;
mod setup;
mod tokenizer;

pub use setup::Setup;

use std::path::{Path, PathBuf};

use case::Case;
use compare::Worst;

/// Computed outputs by name.
type Outputs = Vec<(String, array::Array)>;

/// What became of a folder of cases.
#[derive(Debug)]
pub struct Run {
    /// Number of cases.
    pub cases: usize,
    /// Names of the cases that failed.
    pub failed: Vec<String>,
}

/// Runs every case of a folder and prints a line for each.
///
/// # Errors
/// The folder cannot be read, or holds no case.
pub fn run_folder(folder: &Path, setup: &Setup) -> Result<Run, String> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut cases: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("meta.json").is_file())
        .collect();
    if cases.is_empty() {
        return Err(format!("{}: no cases", folder.display()));
    }
    cases.sort();
    let pool = capstan_model::ComputePool::new(1).map_err(|error| error.to_string())?;
    let mut failed = Vec::new();
    for path in &cases {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match pool.install(|| run_caught(path, setup)) {
            Ok(worst) => println!("{name}: ok, {worst}"),
            Err(difference) => {
                println!("{name}: {difference}");
                failed.push(name.into_owned());
            }
        }
    }
    Ok(Run {
        cases: cases.len(),
        failed,
    })
}

/// Runs one case. A panic fails this case alone.
fn run_caught(path: &Path, setup: &Setup) -> Result<Worst, String> {
    let run = std::panic::AssertUnwindSafe(|| run(path, setup));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = capstan_runtime::panic::text(&*panic);
        Err(format!("the program panicked: {text}"))
    })
}

/// Runs one case. The error lists the outputs that differ.
fn run(path: &Path, setup: &Setup) -> Result<Worst, String> {
    let case = Case::read(path)?;
    let setup = match TRAINING.contains(&case.class()) {
        true => setup.for_training(),
        false => setup.clone(),
    };
    let outputs = compute(&case, &setup)?;
    compare::compare(&case, &outputs, &setup)
}

/// Classes of cases that train.
const TRAINING: [&str; 3] = [
    "lavis.models.blip_models.BlipPretrain",
    "lavis.models.blip_models.BlipRetrieval",
    "open_clip",
];

fn compute(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    match case.class() {
        "transformers.CLIPModel" => clip::compute(case, setup),
        "transformers.BlipForConditionalGeneration" => blip::caption(case, setup),
        "transformers.BlipForImageTextRetrieval" => blip::retrieval(case, setup),
        "lavis.models.blip_models.BlipPretrain" => blip_training::pretrain(case, setup),
        "lavis.models.blip_models.BlipRetrieval" => blip_training::retrieval(case, setup),
        "open_clip.model.CLIP" => open_clip::compute(case, setup),
        "open_clip.build_zero_shot_classifier" => open_clip::zero_shot(case, setup),
        "open_clip" => clip_training::compute(case, setup),
        "open_clip.loss.ClipLoss" => losses::compute(case, setup),
        "open_clip.SimpleTokenizer" => tokenizer::compute(case),
        "open_clip.transform.image_transform" => preprocess::compute(case),
        "transformers.CLIPImageProcessor" | "transformers.BlipImageProcessor" => {
            preprocess::processors(case)
        }
        "pycocoevalcap" => captions::compute(case),
        "transformers.generation.logits_process" => processors::compute(case),
        unknown => Err(format!("no implementation of class `{unknown}`")),
    }
}
