//! The kinds of stage. Each has one file below `stage/`, which holds everything that is
//! particular to it: settings, defaults, checks, inputs, output, tasks and recipes.
//!
//! This file holds what is the same for all: [`Stage`], the traits that a kind implements, and
//! the list of kinds, the only place that distinguishes them.
//!
//! To add a kind: write `stage/<kind>.rs`, add one line to `kinds!` below, write
//! `services/worker/src/stage/<kind>.rs` and add one line to the dispatch there.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::commit::{Part, Shards};
use crate::expand::{self, Next, Request};
use crate::id::{DatasetName, DeviceKind, Digest, ShardId, StageName};
use crate::pipeline::Graph;
use crate::task::Role;

mod architecture;
mod augmentation;
mod balance;
mod caption;
mod crawl;
mod curate;
mod decoding;
mod distillation;
mod evaluate;
mod filter;
mod import;
mod model;
#[cfg(test)]
mod reference;
mod source;
mod storing;
mod tokenizer;
mod towers;
mod train;
mod validation;

pub use architecture::{Activation, Architecture, Family};
pub use augmentation::{Augmentation, RandAugment};
pub use balance::{Balance, BalanceMode, BalanceWork};
pub use caption::{Caption, CaptionWork};
pub use crawl::{Crawl, CrawlWork};
pub use curate::{Curate, CurateWork};
pub use decoding::{Decoding, Strategy};
pub use distillation::Distillation;
pub use evaluate::{Captioning, Evaluate, EvaluateWork, Retrieval, ZeroShot};
pub use filter::{Filter, FilterWork};
pub use import::{Import, ImportFormat, ImportWork, Texts};
pub use model::{GivenModel, ModelWork};
pub use source::{Source, Use};
pub use storing::Storing;
pub use tokenizer::{Tokenizer, TokenizerWork};
pub use towers::{TowerModels, Towers};
pub use train::{Decay, Objective, Positives, Train, TrainWork};
pub use validation::{KeepStep, Validation, ValidationMetric};

/// One stage: its name and what it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Unique within the pipeline; `[a-z0-9_]`.
    pub name: StageName,
    /// Quarantined shards that it may have before the run fails; the pipeline's where not given.
    pub max_quarantined: Option<u64>,
    /// What its models compute on; the most common kind among the workers where not given.
    pub device: Option<DeviceKind>,
    /// What it does, with its settings.
    pub kind: Kind,
}

/// How a stage is split into tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Global and map steps in turn (a crawl).
    Waves,
    /// One task per shard of the input.
    PerShard,
    /// As many tasks as the stage asks for, each a slice of one source.
    Slices,
    /// One task, committed as shard `all`.
    Global,
    /// One task leased to all ranks together, committed by rank 0 as shard `all`.
    Gang,
}

/// What a stage offers to the stages that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output<'a> {
    /// The first version of a dataset of this name.
    NewDataset(&'a DatasetName),
    /// Another version of the dataset that this stage gave.
    DatasetOf(&'a StageName),
    /// A model with its vocabulary.
    Model,
    /// A vocabulary alone.
    Vocabulary,
    /// Figures, which no stage reads.
    Figures,
}

/// What a stage reads of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A dataset version.
    Dataset,
    /// A model.
    Model,
    /// A vocabulary; a model has one beside it.
    Vocabulary,
}

impl Wants {
    /// What is wanted, in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Model => "model",
            Self::Vocabulary => "vocabulary",
        }
    }
}

/// One input of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The key that names the stage, as a path: `model`, `data[1].from`.
    pub key: String,
    /// The stage that is read.
    pub stage: StageName,
    /// What of it is read.
    pub wants: Wants,
}

impl Input {
    fn new(key: impl Into<String>, stage: &StageName, wants: Wants) -> Self {
        Self {
            key: key.into(),
            stage: stage.clone(),
            wants,
        }
    }
}

/// The settings of one kind of stage and the rules that follow from them.
pub trait Settings: Send + Sync {
    /// What it reads, in a fixed order. A stage may be named by several keys.
    fn inputs(&self) -> Vec<Input>;

    /// What it gives to later stages.
    fn output(&self) -> Output<'_>;

    /// How it is split into tasks.
    fn split(&self) -> Split;

    /// Which role works on its tasks.
    fn role(&self) -> Role;

    /// Ranks that must take a task together; 1 for all but training.
    fn world_size(&self) -> usize {
        1
    }

    /// States the rules of every setting and checks the values.
    fn check(&self, check: &mut Check);

    /// Checks what the stage needs of the stages that it reads, beyond that each gives what the
    /// input wants.
    fn check_graph(&self, _: &Graph<'_>, _: &mut Check) {}

    /// Whether its tasks compute with a model, so that the kind of device shapes their output.
    fn computes(&self) -> bool {
        false
    }

    /// The tasks of the next step, or what the finished stage gave.
    ///
    /// # Errors
    /// An input of the wrong kind, or a commit that does not hold what its task makes.
    fn next(&self, request: &Request<'_>) -> Result<Next, expand::Error>;

    /// The task of the next step, which is built on the commits of the step of this shard: once it is
    /// committed, shards of the step that are not are made no more. `None` for the last step.
    fn follower(&self, _: &ShardId) -> Option<ShardId> {
        None
    }
}

/// A kind of stage: its settings under the name that the pipeline file gives the kind.
pub trait StageKind: Settings + Serialize + DeserializeOwned {
    /// The kind as the pipeline file writes it.
    const NAME: &'static str;

    /// Version of the code behind this kind. Raise it whenever equal settings and inputs would
    /// give other rows, or when a default changes, so that older recipes are not adopted.
    const VERSION: u32;
}

/// The shards that the overlays of a task are aligned with.
#[derive(Debug, Clone, Copy)]
pub enum Overlaid<'a> {
    /// The task writes no overlays.
    None,
    /// One shard.
    One(&'a Part),
    /// Every shard of a version.
    All(&'a Shards),
}

/// The work of one task of a kind: what it reads, beside the settings of its stage.
pub trait TaskWork {
    /// The shards that the task's overlays are aligned with, in the order of the overlays.
    fn overlaid(&self) -> Overlaid<'_> {
        Overlaid::None
    }

    /// The one shard that the task reads, where another worker may work on the task at the same
    /// time. `None` for work that must have one owner or is alone in its stage.
    fn part(&self) -> Option<&Part> {
        None
    }

    /// Whether the work sends requests to hosts of others. Each host has one owner, so the work
    /// stops as soon as its lease may be over by the worker's clock. Other work goes on while the
    /// coordinator is unavailable: which attempt counts is decided by the commit.
    fn contacts_foreign_hosts(&self) -> bool {
        false
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($settings:ty, $work:ty),)*) => {
        /// What a stage does.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        #[allow(clippy::large_enum_variant, reason = "a pipeline has few stages")]
        pub enum Kind {
            $($(#[$doc])* $kind($settings),)*
        }

        /// The work of one task. Travels over gRPC as JSON inside a typed message.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "work", rename_all = "snake_case")]
        pub enum Work {
            $($(#[$doc])* $kind($work),)*
        }

        impl Kind {
            /// The names of all kinds, in the order of the enum.
            pub const NAMES: &[&str] = &[$(<$settings as StageKind>::NAME,)*];

            /// The kind as the pipeline file writes it.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => <$settings as StageKind>::NAME,)* }
            }

            /// Version of the code behind this kind.
            pub fn version(&self) -> u32 {
                match self { $(Self::$kind(_) => <$settings as StageKind>::VERSION,)* }
            }

            /// The settings with the rules of the kind.
            pub fn settings(&self) -> &dyn Settings {
                match self { $(Self::$kind(settings) => settings,)* }
            }

            /// Digest of the settings as JSON, by which tasks name them.
            pub fn digest(&self) -> Digest {
                Digest::of(&serde_json::to_vec(self).expect("settings are plain data"))
            }

            /// Reads the settings of the kind of this name; `None` where no kind has the name.
            pub(crate) fn read<'de, D: serde::Deserializer<'de>>(
                name: &str,
                settings: D,
            ) -> Option<Result<Self, D::Error>> {
                match name {
                    $(<$settings as StageKind>::NAME => {
                        Some(<$settings>::deserialize(settings).map(Self::$kind))
                    })*
                    _ => None,
                }
            }
        }

        impl std::ops::Deref for Work {
            type Target = dyn TaskWork;

            fn deref(&self) -> &Self::Target {
                match self { $(Self::$kind(work) => work,)* }
            }
        }

        $(impl From<$work> for Work {
            fn from(work: $work) -> Self {
                Self::$kind(work)
            }
        })*
    };
}

kinds! {
    /// Fetches pages, then images, in waves from seeds.
    Crawl(Crawl, CrawlWork),
    /// Reads existing pairs into a dataset.
    Import(Import, ImportWork),
    /// Reads an existing model.
    Model(GivenModel, ModelWork),
    /// Filters and matches texts, shard by shard.
    Curate(Curate, CurateWork),
    /// Drops exact duplicates and caps queries, over all shards.
    Balance(Balance, BalanceWork),
    /// Makes one vocabulary for all arms.
    Tokenizer(Tokenizer, TokenizerWork),
    /// Trains a model on a gang of ranks.
    Train(Train, TrainWork),
    /// Writes synthetic texts, shard by shard.
    Caption(Caption, CaptionWork),
    /// Judges web and synthetic texts, shard by shard.
    Filter(Filter, FilterWork),
    /// Measures a model.
    Evaluate(Evaluate, EvaluateWork),
}

impl Kind {
    /// The stages whose outputs it reads, in a fixed order, each once.
    pub fn inputs(&self) -> Vec<StageName> {
        let mut names: Vec<StageName> = Vec::new();
        for input in self.settings().inputs() {
            if !names.contains(&input.stage) {
                names.push(input.stage);
            }
        }
        names
    }

    /// How it is split into tasks.
    pub fn split(&self) -> Split {
        self.settings().split()
    }
}

/// A name of a stage that is left out of a recipe: names never shape an output.
fn blank_stage() -> StageName {
    StageName::from("")
}
