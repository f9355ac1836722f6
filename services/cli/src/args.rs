//! The command line: every command with an example that can be pasted.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

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
    after_help = "Begin with:\n  capstan demo\n\nExit codes: 2 usage, 3 configuration, \
                        4 unavailable, 5 run failed, 6 unreadable or foreign input."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Configuration file (TOML) of every role; defaults < file < CAPSTAN__SECTION__KEY < flags.
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
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
    /// Describe pictures with a captioner.
    #[command(after_help = "Example:\n  capstan caption photo.jpg --model \
        capstan-demo/models/captioner_bootstrapped")]
    Caption(Caption),
    /// Score how well texts match a picture.
    #[command(
        after_help = "Example:\n  capstan match photo.jpg \"a red ball\" \"a blue ring\" \
        --model capstan-demo/models/matcher"
    )]
    Match(Match),
    /// Look at datasets: list, show, count, verify.
    #[command(
        subcommand,
        after_help = "Examples:\n  capstan dataset ls --store capstan-demo/store\n  \
        capstan dataset show web --store capstan-demo/store --rows 5\n  \
        capstan dataset verify --store s3://bucket/prefix"
    )]
    Dataset(Dataset),
    /// Print the effective configuration, secrets hidden.
    #[command(after_help = "Example:\n  CAPSTAN__STORE__URL=s3://bucket/prefix capstan config")]
    Config,
}

/// `capstan demo`.
#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Seed of the world and of every draw.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for the store, the report and the summary; one of its own is resumed.
    #[arg(long, default_value = "capstan-demo", value_name = "DIR")]
    pub out: PathBuf,
    /// Describes the web to crawl (see --print-world).
    #[arg(long, value_name = "FILE.toml")]
    pub world: Option<PathBuf>,
    /// Describes the stages (see --print-pipeline).
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
    /// Where models compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// `capstan caption`.
#[derive(Debug, ClapArgs)]
pub struct Caption {
    /// Pictures (JPEG, PNG, WebP).
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Folder of a captioner (Hugging Face BlipForConditionalGeneration).
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Sequences of beam search; 1 is greedy.
    #[arg(long, default_value_t = 3)]
    pub beams: usize,
    /// Tokens at most.
    #[arg(long, default_value_t = 20)]
    pub max_tokens: usize,
    /// Where the model computes: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// `capstan match`.
#[derive(Debug, ClapArgs)]
pub struct Match {
    /// A picture (JPEG, PNG, WebP).
    pub image: PathBuf,
    /// Texts to score.
    #[arg(required = true, value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Folder of a filter (BlipForImageTextRetrieval) or of a CLIP model.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Where the model computes: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// Where a dataset command looks.
#[derive(Debug, ClapArgs)]
pub struct StoreArgs {
    /// Store: a folder, s3://bucket/prefix or another object store URL [default: from the configuration].
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `capstan dataset`.
#[derive(Debug, Subcommand)]
pub enum Dataset {
    /// List datasets and their versions.
    Ls(StoreArgs),
    /// Show rows of a version: texts, verdicts and reasons.
    Show {
        /// `name` (the newest version) or `name@number`.
        dataset: String,
        /// Rows to show.
        #[arg(long, default_value_t = 10)]
        rows: usize,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Count rows, texts, rejects and verdicts of a version.
    Stats {
        /// `name` (the newest version) or `name@number`.
        dataset: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Check every file of every version: digests, alignment, ids, sums.
    Verify {
        /// `name` or `name@number`; all where left out.
        dataset: Option<String>,
        #[command(flatten)]
        store: StoreArgs,
    },
}
