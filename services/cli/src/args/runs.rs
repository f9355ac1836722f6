//! Arguments of commands that talk to a coordinator about runs.

use std::path::PathBuf;

use capstan_runtime::Overrides;
use clap::{Args as ClapArgs, Subcommand};

use super::StoreArgs;

/// The coordinator of a command.
#[derive(Debug, ClapArgs)]
pub struct Remote {
    /// Coordinator [coordinator.address].
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Seconds to wait for a coordinator that does not listen yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

impl Remote {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        Overrides::new().set_some("coordinator.address", self.coordinator.clone())
    }
}

/// `capstan check`.
#[derive(Debug, ClapArgs)]
pub struct Check {
    /// The stages.
    #[arg(value_name = "PIPELINE.toml")]
    pub pipeline: PathBuf,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// `capstan run`.
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE.toml")]
    pub pipeline: PathBuf,
    /// Seed of every draw [default: the pipeline's].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Id of the run [default: from the pipeline's name, its content and the seed].
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Show the stages, their tasks and how many are done; start nothing.
    #[arg(long, conflicts_with = "detach")]
    pub plan: bool,
    /// Submit the run and exit.
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan watch`.
#[derive(Debug, ClapArgs)]
pub struct Watch {
    /// Id of the run.
    pub run: String,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan runs`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Runs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// Maximum number of runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan runs <command>`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Delete runs that ended long ago from the coordinator's database. The object store keeps all that
    /// they made, and a run that is submitted again continues from there.
    #[command(after_help = "Example:\n  capstan runs prune --days 30")]
    Prune(Prune),
}

/// `capstan runs prune`.
#[derive(Debug, ClapArgs)]
pub struct Prune {
    /// Days since the end of a run, at least.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub days: u32,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan cancel`.
#[derive(Debug, ClapArgs)]
pub struct Cancel {
    /// Id of the run.
    pub run: String,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan retry`.
#[derive(Debug, ClapArgs)]
pub struct Retry {
    /// Id of the run.
    pub run: String,
    /// Only this stage.
    #[arg(long)]
    pub stage: Option<String>,
    /// Only this shard: its number or its name.
    #[arg(long, requires = "stage")]
    pub shard: Option<String>,
    #[command(flatten)]
    pub remote: Remote,
}

/// `capstan report`.
#[derive(Debug, ClapArgs)]
pub struct Report {
    /// Id of the run.
    pub run: String,
    /// Folder for report.html and summary.json; created if it is absent.
    #[arg(long, value_name = "DIR", default_value = "capstan-report")]
    pub out: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `capstan state`.
#[derive(Debug, Subcommand)]
pub enum State {
    /// Rebuild the coordinator's database from the store.
    #[command(
        after_help = "Example:\n  capstan state rebuild --store s3://bucket/prefix --database \
        sqlite:capstan.db\n\nNo coordinator may be running. The present database is \
        replaced."
    )]
    Rebuild {
        /// Store: a folder, s3://bucket/prefix or another object store URL [store.url].
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// Database: sqlite:FILE [coordinator.database].
        #[arg(long, value_name = "URL")]
        database: Option<String>,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
}
