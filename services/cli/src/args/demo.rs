//! Arguments of the demo.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `capstan demo`.
#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Seed of the world and of every draw.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for the store, the report and the summary; the folder of an earlier demo is resumed.
    #[arg(long, default_value = "capstan-demo", value_name = "DIR")]
    pub out: PathBuf,
    /// Description of the web to crawl (see --print-world).
    #[arg(long, value_name = "FILE.toml")]
    pub world: Option<PathBuf>,
    /// Pipeline file (see --print-pipeline).
    #[arg(long, value_name = "FILE.toml")]
    pub pipeline: Option<PathBuf>,
    /// Add the arms that complete the 2x2 table of the BLIP paper. Takes about twice as long.
    #[arg(long)]
    pub full: bool,
    /// Print the shipped world and exit.
    #[arg(long)]
    pub print_world: bool,
    /// Print the shipped pipeline and exit.
    #[arg(long)]
    pub print_pipeline: bool,
    /// Print the summary as JSON on stdout instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Device of the models: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
