//! The command line: every command with an example that can be pasted.

mod certs;
mod dataset;
mod demo;
mod models;
mod roles;
mod runs;

use clap::{Parser, Subcommand};

pub use certs::Certs;
pub use dataset::{Dataset, Import, Layout, StoreArgs};
pub use demo::Demo;
pub use models::{Caption, Match, Model, OfModel};
pub use roles::{Coordinator, DemoWeb, Ready, Trainer, Up, Worker};
pub use runs::{Cancel, Check, Prune, Remote, Report, Retry, Run, Runs, RunsCommand, State, Watch};

use crate::settings::Settings;

/// Bootstraps vision-language data and models: crawls a noisy web into image-text pairs, trains
/// BLIP on them, captions and filters them, trains CLIP and BLIP again, and measures the gain.
#[derive(Debug, Parser)]
#[command(
    name = "capstan",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Begin with:\n  capstan demo\n\nOr as a service:\n  capstan up &\n  \
                  capstan run pipeline.toml\n\nExit codes: 2 usage, 3 configuration, \
                  4 unavailable, 5 run failed, 6 unreadable or foreign input, 130 interrupted."
)]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Sources of settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole loop on this machine over a miniature web, and show what was gained.
    #[command(
        after_help = "Examples:\n  capstan demo\n  capstan demo --seed 2 --out /tmp/second\n  \
        capstan demo --print-world > world.toml    # change the noise, then:\n  \
        capstan demo --world world.toml --out noisier"
    )]
    Demo(Demo),
    /// Run the whole system on this machine until it is stopped.
    #[command(
        after_help = "Example:\n  capstan up --store capstan-store &\n  capstan run pipeline.toml\n\n\
        It stops at SIGTERM or Ctrl-C and resumes its runs at the next start."
    )]
    Up(Up),
    /// Check a pipeline file: every value, and how the stages fit together.
    #[command(
        after_help = "Example:\n  capstan check pipeline.toml\n\nNeeds no coordinator. Lists every \
        problem with file, line, stage, key, value and what is allowed;\n`capstan run` checks the same \
        before it submits. The keys are described in docs/pipeline.md."
    )]
    Check(Check),
    /// Submit a pipeline and watch it.
    #[command(after_help = "Examples:\n  capstan run pipeline.toml --seed 2\n  \
        capstan run pipeline.toml --plan        # tasks to do and tasks that are done\n  \
        capstan run pipeline.toml --detach --coordinator https://coordinator:7400\n\n\
        Ctrl-C stops watching, not the run: `capstan watch RUN` watches it again.")]
    Run(Run),
    /// Watch a run to its end.
    #[command(
        after_help = "Example:\n  capstan watch small-7\n\nCtrl-C stops watching, not the run."
    )]
    Watch(Watch),
    /// List runs, newest first.
    #[command(
        after_help = "Examples:\n  capstan runs --limit 5\n  capstan runs --json\n  capstan runs prune --days 30"
    )]
    Runs(Runs),
    /// Write the page of a run and its figures; needs the store alone, no coordinator.
    #[command(
        after_help = "Examples:\n  capstan report small-7 --store s3://bucket/prefix --out small-7\n  \
        capstan report demo-1 --store capstan-demo/store --json"
    )]
    Report(Report),
    /// Cancel a run. Its commits stay; submitting the run again resumes it.
    #[command(after_help = "Example:\n  capstan cancel small-7")]
    Cancel(Cancel),
    /// Retry the shards that a run has quarantined.
    #[command(
        after_help = "Examples:\n  capstan retry small-7\n  capstan retry small-7 --stage caption \
        --shard 3"
    )]
    Retry(Retry),
    /// Run the coordinator of a cluster.
    #[command(
        after_help = "Example:\n  capstan coordinator --config capstan.toml --store s3://bucket/prefix"
    )]
    Coordinator(Coordinator),
    /// Run a worker of a cluster.
    #[command(
        after_help = "Example:\n  capstan worker --roles crawl,curate --coordinator \
        http://127.0.0.1:7400 --store s3://bucket/prefix"
    )]
    Worker(Worker),
    /// Run a trainer of a cluster: one rank of a training gang.
    #[command(
        after_help = "Example:\n  capstan trainer --coordinator http://127.0.0.1:7400 --store \
        s3://bucket/prefix --device cuda:0"
    )]
    Trainer(Trainer),
    /// Serve a miniature web to crawl, a port per host.
    #[command(
        after_help = "Example:\n  capstan demoweb --listen-from 127.0.0.1:8001 --annotations \
        annotations\n\nPut the first line of its output under [crawl] in the workers' \
        configuration;\nDIR is one of their [import] roots."
    )]
    Demoweb(DemoWeb),
    /// The coordinator's database.
    #[command(
        subcommand,
        after_help = "Example:\n  capstan state rebuild --store s3://bucket/prefix --database \
        sqlite:capstan.db"
    )]
    State(State),
    /// Describe pictures with a captioner.
    #[command(
        after_help = "Examples:\n  capstan caption photo.jpg --model capstan-demo/models/captioner\n  \
        capstan caption photos/ --model captioner/ --write-txt --batch 32"
    )]
    Caption(Caption),
    /// Score how well texts match pictures.
    #[command(
        after_help = "Example:\n  capstan match photo.jpg \"a red ball\" \"a blue ring\" \
        --model capstan-demo/models/matcher"
    )]
    Match(Match),
    /// List, inspect, verify, import and export datasets.
    #[command(
        subcommand,
        after_help = "Examples:\n  capstan dataset ls --store capstan-demo/store\n  \
        capstan dataset show web --store capstan-demo/store --rows 5\n  \
        capstan dataset verify --store s3://bucket/prefix\n  \
        capstan dataset lineage web \"two red rings\" --store capstan-demo/store\n  \
        capstan dataset export web folder --store capstan-demo/store"
    )]
    Dataset(Dataset),
    /// List, import and export the models of a store.
    #[command(
        subcommand,
        after_help = "Examples:\n  capstan model ls --store capstan-demo/store\n  \
        capstan model export 3f2a9c captioner --store capstan-demo/store\n  \
        capstan model import blip-image-captioning-base --store s3://bucket/prefix"
    )]
    Model(Model),
    /// Make a development CA, a certificate for every role and a token.
    #[command(
        after_help = "Examples:\n  capstan certs --out certs --name coordinator.example.org\n  \
        capstan certs --out certs --role worker    # again, with a new key\n\nHand each host ca.pem and its own role's two files; keep ca.key."
    )]
    Certs(Certs),
    /// Print the effective configuration, secrets hidden.
    #[command(after_help = "Example:\n  CAPSTAN__STORE__URL=s3://bucket/prefix capstan config")]
    Config,
}
