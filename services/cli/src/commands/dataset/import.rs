//! `capstan dataset import`: a run of one import stage, without a pipeline file.

use capstan_plan::Pipeline;
use capstan_proto::v1;
use capstan_proto::v1::submit_run_request::Pipeline as Given;
use toml::{Table, Value};

use crate::args;
use crate::commands::run;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::settings::Settings;

/// Submits the import and watches it.
///
/// # Errors
/// Usage, for an unknown format or origin; unavailable coordinator; run failed, with the worker's
/// error about the source.
pub async fn import(args: &args::Import, settings: &Settings) -> Result<(), ExpectedError> {
    let text = pipeline(args).to_string();
    let pipeline = Pipeline::from_toml(&text, "dataset import").or_exit(Exit::Usage)?;
    let request = v1::SubmitRunRequest {
        pipeline: Some(Given::Toml(text)),
        file_name: "dataset import".to_owned(),
        seed: None,
        run: String::new(),
    };
    run::submit(request, &pipeline, args.detach, &args.remote, settings).await
}

/// The pipeline of the flags. Flags that are not given keep the defaults of the stage.
fn pipeline(args: &args::Import) -> Table {
    let text = |text: &String| Value::String(text.clone());
    let mut stage = Table::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            stage.insert(key.to_owned(), value);
        }
    };
    set("name", Some(Value::from("import")));
    set("kind", Some(Value::from("import")));
    set("dataset", Some(text(&args.dataset)));
    set("format", Some(text(&args.format)));
    set("source", Some(text(&args.source)));
    set("origin", args.origin.as_ref().map(text));
    set("texts", args.texts.as_ref().map(text));
    set("snapshot", args.snapshot.as_ref().map(text));
    let shards = args
        .shards
        .map(|shards| i64::try_from(shards).unwrap_or(i64::MAX));
    set("shards", shards.map(Value::Integer));
    let mut pipeline = Table::new();
    let name = format!("import-{}", args.dataset);
    pipeline.insert("name".to_owned(), Value::String(name));
    pipeline.insert("stage".to_owned(), Value::Array(vec![Value::Table(stage)]));
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn import(flags: &[&str]) -> Result<Pipeline, String> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            import: args::Import,
        }
        let line = Line::parse_from([&["import", "pairs", "--dataset", "mine"], flags].concat());
        let text = pipeline(&line.import).to_string();
        Pipeline::from_toml(&text, "dataset import").map_err(|error| error.to_string())
    }

    #[test]
    fn flags_make_one_stage_or_are_refused_by_name() {
        let flags = [
            "--format",
            "img2dataset",
            "--shards",
            "4",
            "--origin",
            "alt",
            "--texts",
            "required",
        ];
        let pipeline = import(&flags).unwrap();
        assert_eq!(pipeline.name, "import-mine");
        assert_eq!(pipeline.stages.len(), 1);
        let error = import(&["--format", "laion"]).unwrap_err();
        assert!(error.contains("laion"), "{error}");
        let error = import(&["--format", "folder", "--shards", "0"]).unwrap_err();
        assert!(error.contains("shards"), "{error}");
    }
}
