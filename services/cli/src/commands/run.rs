//! `capstan run` and `capstan watch`: a pipeline submitted, planned, watched.

use std::time::Duration;

use capstan_plan::Pipeline;
use capstan_proto::v1;
use capstan_proto::v1::submit_run_request::Pipeline as Given;
use capstan_runtime::shutdown;
use serde_json::json;

use super::{block_on, check, describe};
use crate::access;
use crate::args;
use crate::client::Coordinator;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output;
use crate::settings::Settings;
use crate::watch::{Board, Followed, finished, follow};

/// Submits a pipeline and watches it, or shows its tasks.
///
/// # Errors
/// Configuration, naming file, stage and key; unavailable coordinator; run failed, with the stage,
/// the shards and their errors; interrupted, if a signal ended the watch.
pub fn run(args: &args::Run, settings: &Settings) -> Result<(), ExpectedError> {
    let (text, pipeline) = check::read(&args.pipeline)?;
    let request = v1::SubmitRunRequest {
        pipeline: Some(Given::Toml(text)),
        file_name: args.pipeline.display().to_string(),
        seed: args.seed,
        run: args.run.clone().unwrap_or_default(),
    };
    block_on(async {
        if args.plan {
            let coordinator = connect(&args.remote, settings).await?;
            let plan = coordinator.plan(request).await?;
            if args.remote.json {
                return output::json(&describe::plan_json(&plan));
            }
            println!("{}", describe::plan_table(&plan));
            println!("{}", describe::plan_sentence(&plan));
            for warning in &plan.warnings {
                eprintln!("warning: {warning}");
            }
            return Ok(());
        }
        submit(request, &pipeline, args.detach, &args.remote, settings).await
    })
}

/// Submits a pipeline and watches it to its end, or exits.
///
/// # Errors
/// As [`run`].
pub(super) async fn submit(
    request: v1::SubmitRunRequest,
    pipeline: &Pipeline,
    detach: bool,
    remote: &args::Remote,
    settings: &Settings,
) -> Result<(), ExpectedError> {
    let coordinator = connect(remote, settings).await?;
    let submitted = coordinator.submit(request).await?;
    for warning in &submitted.warnings {
        eprintln!("warning: {warning}");
    }
    let run = submitted.run;
    if detach {
        if remote.json {
            return output::json(&json!({"run": run, "resumed": submitted.resumed}));
        }
        println!("{run}");
        return Ok(());
    }
    let verb = if submitted.resumed {
        "going on with"
    } else {
        "submitted"
    };
    eprintln!("{verb} run {run}");
    let ended = to_its_end(&coordinator, &run, pipeline, remote.json).await?;
    if ended.leased == 0 {
        eprintln!("nothing was left to do: every task is committed");
    }
    Ok(())
}

/// Watches a run that was submitted before.
///
/// # Errors
/// As [`run`]; usage, for an unknown run.
pub fn watch(args: &args::Watch, settings: &Settings) -> Result<(), ExpectedError> {
    block_on(async {
        let coordinator = connect(&args.remote, settings).await?;
        let found = coordinator.run(&args.run).await?;
        let pipeline: Pipeline = serde_json::from_str(&found.pipeline_json).map_err(|error| {
            let line = format!("run {}: its pipeline cannot be read: {error}", args.run);
            ExpectedError::new(Exit::Unavailable, line)
        })?;
        let as_json = args.remote.json;
        to_its_end(&coordinator, &args.run, &pipeline, as_json).await?;
        Ok(())
    })
}

/// Connects to the coordinator of the configuration.
///
/// # Errors
/// Configuration, unavailable.
pub(super) async fn connect(
    args: &args::Remote,
    settings: &Settings,
) -> Result<Coordinator, ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let access = access::operator(&config)?;
    let wait = Duration::from_secs(args.wait);
    Coordinator::connect(&config.coordinator.address, &access, wait).await
}

/// Watches on a board until the run ends or a signal arrives, then prints the stages.
async fn to_its_end(
    coordinator: &Coordinator,
    run: &str,
    pipeline: &Pipeline,
    as_json: bool,
) -> Result<v1::RunEnded, ExpectedError> {
    let leave = shutdown::on_signals().or_exit(Exit::RunFailed)?;
    let mut board = Board::new(pipeline);
    let followed = follow(coordinator, run, &mut board, &leave).await;
    board.finish();
    let ended = match followed? {
        Followed::Ended(ended) => ended,
        Followed::Left => {
            let line = format!(
                "stopped watching; run {run} continues: `capstan watch {run}` watches it again"
            );
            return Err(ExpectedError::new(Exit::Interrupted, line));
        }
    };
    let status = coordinator.run(run).await?.status.unwrap_or_default();
    if as_json {
        output::json(&describe::run_json(&status))?;
    } else {
        println!("{}", describe::stages_table(&status));
    }
    finished(ended)
}
