//! Our half of the comparison with PyTorch, and the parity cases, in one program that needs no cargo.
//! `tests/peers/models.py` runs it beside `tests/peers/reference.py`, which takes the same arguments.
//!
//! ```text
//! models caption --model DIR --pixels FILE --mode greedy|nucleus|beam
//! models filtered --model DIR --pixels FILE --prefix FILE --out FILE
//! models match   --model DIR --pixels FILE --texts FILE
//! models embed   --model DIR --pixels FILE
//! models train   --kind clip|blip --model DIR --batch FILE
//! models cold    --model DIR --image FILE
//! models parity  --cases DIR
//! ```
//! Every line of the output is JSON, except those of `parity`. A timed command warms up, prints
//! `{"ready": ...}`, then a line for each repetition, then `{"result": ..., "peak_rss_mb": ...}`. With
//! `--paced` a repetition waits for a line on the standard input, so that a caller can alternate two
//! programs; the end of the input ends the repetitions.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod caption;
mod cold;
mod embed;
mod inputs;
mod matching;
mod pace;
#[path = "../../parity/mod.rs"]
mod parity;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use capstan_model::params::Dtype;
use capstan_model::weights::Keep;
use capstan_model::{ComputePool, Device, DeviceSpec, Load};
use clap::{Args, Parser, Subcommand, ValueEnum};

use pace::Pace;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Times the product's models, and runs parity cases")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Captions of prepared pictures.
    Caption(caption::Caption),
    /// The distribution that nucleus sampling draws from after each token of a given text.
    Filtered(caption::Filtered),
    /// Image-text matching, several texts a picture.
    Match(matching::Match),
    /// Embeddings of pictures.
    Embed(embed::Embed),
    /// Training steps.
    Train(train::Train),
    /// The first caption of this process.
    Cold(cold::Cold),
    /// Runs a folder of parity cases; `CAPSTAN_PARITY_DEVICE` and `CAPSTAN_PARITY_DTYPE` apply.
    Parity {
        /// The folder.
        #[arg(long)]
        cases: PathBuf,
    },
}

/// Where a command computes, and how often.
#[derive(Debug, Clone, Args)]
struct Run {
    /// `cpu`, `cuda` or `cuda:1`.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Type in which weights are stored. What is trained is f32.
    #[arg(long, default_value = "f32")]
    dtype: Type,
    /// Compute threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Repetitions after the warm-up; at most these with `--paced`.
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Whether a repetition waits for a line on the standard input.
    #[arg(long)]
    paced: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

impl Run {
    /// How a model is read.
    fn load(&self, device: &Device) -> Load {
        let dtype = match self.dtype {
            Type::F32 => Dtype::F32,
            Type::Bf16 => Dtype::Bf16,
        };
        Load {
            keep: Keep::As(dtype),
            ..Load::on(device)
        }
    }

    /// Runs `work` with the device on a pool of these threads.
    fn on_device<T: Send>(
        &self,
        work: impl FnOnce(&Device, Pace) -> Result<T> + Send,
    ) -> Result<T> {
        let device = self.device.open()?;
        let pace = Pace::new(self.reps, self.paced);
        ComputePool::new(self.threads)?.install(|| work(&device, pace))
    }
}

fn main() -> Result<ExitCode> {
    let start = std::time::Instant::now();
    match Cli::parse().command {
        Command::Caption(command) => command.run()?,
        Command::Filtered(command) => command.run()?,
        Command::Match(command) => command.run()?,
        Command::Embed(command) => command.run()?,
        Command::Train(command) => command.run()?,
        Command::Cold(command) => command.run(start)?,
        Command::Parity { cases } => {
            let setup = parity::Setup::from_env().map_err(anyhow::Error::msg)?;
            let run = parity::run_folder(&cases, &setup).map_err(anyhow::Error::msg)?;
            if !run.failed.is_empty() {
                eprintln!("{} of {} cases failed", run.failed.len(), run.cases);
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
