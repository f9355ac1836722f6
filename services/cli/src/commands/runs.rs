//! `capstan runs`, `cancel` and `retry`.

use std::time::Duration;

use capstan_proto::v1;
use serde_json::{Value, json};

use super::run::connect;
use super::{block_on, describe};
use crate::args;
use crate::error::ExpectedError;
use crate::output;
use crate::settings::Settings;

/// Lists runs, newest first.
///
/// # Errors
/// Configuration, unavailable.
pub fn list(args: &args::Runs, settings: &Settings) -> Result<(), ExpectedError> {
    if let Some(args::RunsCommand::Prune(args)) = &args.command {
        return prune(args, settings);
    }
    block_on(async {
        let coordinator = connect(&args.remote, settings).await?;
        let runs = coordinator.runs(args.limit).await?;
        if args.remote.json {
            let runs: Vec<Value> = runs.iter().map(describe::run_json).collect();
            return output::json(&runs);
        }
        if runs.is_empty() {
            println!("no runs: `capstan run PIPELINE.toml` submits one");
        } else {
            println!("{}", describe::runs_table(&runs));
        }
        Ok(())
    })
}

/// Deletes runs that ended long ago from the coordinator's database.
fn prune(args: &args::Prune, settings: &Settings) -> Result<(), ExpectedError> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    block_on(async {
        let coordinator = connect(&args.remote, settings).await?;
        let mut runs = Vec::new();
        loop {
            let pruned = coordinator.prune(DAY * args.days).await?;
            runs.extend(pruned.runs);
            if !pruned.more {
                break;
            }
        }
        if args.remote.json {
            return output::json(&json!({"pruned": runs}));
        }
        for run in &runs {
            println!("{run}");
        }
        println!("{} runs pruned; the store keeps what they made", runs.len());
        Ok(())
    })
}

/// Cancels a run.
///
/// # Errors
/// Configuration, unavailable; usage, for an unknown run.
pub fn cancel(args: &args::Cancel, settings: &Settings) -> Result<(), ExpectedError> {
    block_on(async {
        let coordinator = connect(&args.remote, settings).await?;
        let cancelled = coordinator.cancel(&args.run).await?;
        let state = describe::run_state(cancelled.state());
        if args.remote.json {
            return output::json(&json!({"run": args.run, "state": state}));
        }
        println!("run {} is {state}", args.run);
        Ok(())
    })
}

/// Retries the shards that a run has quarantined.
///
/// # Errors
/// Configuration, unavailable; usage, for an unknown run, or one without shards to retry.
pub fn retry(args: &args::Retry, settings: &Settings) -> Result<(), ExpectedError> {
    block_on(async {
        let coordinator = connect(&args.remote, settings).await?;
        let request = v1::RetryRunRequest {
            run: args.run.clone(),
            stage: args.stage.clone().unwrap_or_default(),
            shard: args.shard.as_deref().map(shard).unwrap_or_default(),
        };
        let retried = coordinator.retry(request).await?;
        let state = describe::run_state(retried.state());
        if args.remote.json {
            let answer = json!({"run": args.run, "state": state, "shards": retried.shards});
            return output::json(&answer);
        }
        let run = &args.run;
        println!(
            "run {run} is {state}, {} shards are tried again",
            retried.shards
        );
        Ok(())
    })
}

/// The name of a shard; most shards are named by their number.
fn shard(given: &str) -> String {
    match given.parse::<u32>() {
        Ok(number) => format!("{number:05}"),
        Err(_) => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shard;

    #[test]
    fn a_shard_may_be_given_by_its_number() {
        assert_eq!(shard("3"), "00003");
        assert_eq!(shard("00003"), "00003");
        assert_eq!(shard("pages-0-00001"), "pages-0-00001");
        assert_eq!(shard("all"), "all");
    }
}
