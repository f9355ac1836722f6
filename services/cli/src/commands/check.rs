//! `capstan check`: a pipeline file is read and checked without a coordinator.

use capstan_plan::Pipeline;
use serde_json::json;

use crate::args;
use crate::error::{Exit, ExpectedError};
use crate::output;

/// Checks every value of a pipeline file and how its stages fit together. Nothing is contacted and
/// nothing written.
///
/// # Errors
/// Configuration, with a line per problem: file, line, stage, key, value and what is allowed.
pub fn run(args: &args::Check) -> Result<(), ExpectedError> {
    let (_, pipeline) = read(&args.pipeline)?;
    if args.json {
        let stages: Vec<_> = pipeline
            .stages
            .iter()
            .map(|stage| json!({"stage": stage.name, "kind": stage.kind.name()}))
            .collect();
        return output::json(&json!({
            "pipeline": pipeline.name,
            "run": pipeline.run_id(),
            "stages": stages,
        }));
    }
    let count = pipeline.stages.len();
    let stages = if count == 1 { "stage" } else { "stages" };
    println!(
        "{}: pipeline `{}` of {count} {stages} can run",
        args.pipeline.display(),
        pipeline.name
    );
    Ok(())
}

/// Reads and checks a pipeline file; gives its text too, which a coordinator is sent.
///
/// # Errors
/// As [`run`].
pub(super) fn read(path: &std::path::Path) -> Result<(String, Pipeline), ExpectedError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ExpectedError::new(Exit::Configuration, format!("{file}: {error}")))?;
    let pipeline = Pipeline::from_toml(&text, &file)
        .map_err(|error| ExpectedError::lines(Exit::Configuration, error))?;
    Ok((text, pipeline))
}
