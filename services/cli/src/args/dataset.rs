//! Arguments of commands that work with datasets.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::Remote;

/// The store of a dataset command.
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
    /// Trace texts to their page, picture, model, verdict and commits.
    #[command(
        after_help = "Examples:\n  capstan dataset lineage bootstrapped \"two red rings\" --store \
        capstan-demo/store\n  capstan dataset lineage web@3 \
        0b5fd5e51f38a7e9a7c7c1ae6c6d2a2f4a9d0f4a1c7d4f2a7b8e5c1d2f3a4b5c --json"
    )]
    Lineage {
        /// `name` (the newest version) or `name@number`.
        dataset: String,
        /// Id of a text or of a pair (64 hexadecimal digits), or words of the text.
        #[arg(value_name = "ID|WORDS")]
        query: String,
        /// Maximum number of texts.
        #[arg(long, default_value_t = 10)]
        limit: usize,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Import existing pairs into a dataset: a run of one import stage.
    #[command(
        after_help = "Examples:\n  capstan dataset import pairs --dataset mine --format img2dataset\n  \
        capstan dataset import captions --dataset human --format coco_captions\n\nThe workers read \
        SOURCE: it lies below one of their [import] roots."
    )]
    Import(Import),
    /// Export the rows that training would use into a folder that other programs read.
    #[command(
        after_help = "Examples:\n  capstan dataset export bootstrapped out --store \
        capstan-demo/store\n  capstan dataset export web@3 shards --layout webdataset\n  \
        capstan dataset export pictures captioned --layout files"
    )]
    Export {
        /// `name` (the newest version) or `name@number`.
        dataset: String,
        /// Folder to write: new or empty.
        folder: PathBuf,
        /// The layout of the files.
        #[arg(long, value_enum, default_value_t = Layout::Pictures)]
        layout: Layout,
        /// Maximum number of rows of a file.
        #[arg(long, default_value_t = 10_000)]
        rows_per_file: usize,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// `capstan dataset import`.
#[derive(Debug, ClapArgs)]
pub struct Import {
    /// Folder of the pairs, as the workers see it.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The dataset that is written.
    #[arg(long, value_name = "NAME")]
    pub dataset: String,
    /// Format of the source: img2dataset, webdataset, folder or coco_captions.
    #[arg(long)]
    pub format: String,
    /// Number of tasks [default: by format].
    #[arg(long)]
    pub shards: Option<u64>,
    /// Origin of the texts: alt, title, caption or human [default: by format].
    #[arg(long)]
    pub origin: Option<String>,
    /// `required` rejects a picture without a text; by default it is a row like any other.
    #[arg(long, value_name = "RULE")]
    pub texts: Option<String>,
    /// Label of the state of the source: a new label imports it again.
    #[arg(long, value_name = "LABEL")]
    pub snapshot: Option<String>,
    /// Submit the run and exit.
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub remote: Remote,
}

/// The layout of an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Layout {
    /// Parquet, one row per picture with the list of its texts.
    Pictures,
    /// Parquet, one row per (picture, text), with the columns of img2dataset.
    Flat,
    /// WebDataset tar files, one sample per (picture, text).
    Webdataset,
    /// A folder of pictures, each with its texts in a `.txt` beside it, one per line.
    Files,
}
