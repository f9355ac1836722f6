//! `tokenizer`: one vocabulary for all arms, learnt from the texts of several datasets.

use serde::{Deserialize, Serialize};

use super::source::{self, Source};
use super::{Input, Output, Settings, Split, StageKind, TaskWork};
use crate::check::Check;
use crate::expand::{Error, Expansion, Step};
use crate::id::RecipeHash;
use crate::pipeline::Graph;
use crate::recipe::{self, Scope};
use crate::task::{Data, Role};

/// `kind = "tokenizer"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// The texts it learns from.
    pub data: Vec<Source>,
    /// Times a word must be seen to become a token.
    #[serde(default = "min_count")]
    pub min_count: u64,
    /// Tokens at most.
    #[serde(default = "max_vocab")]
    pub max_vocab: usize,
}

/// Global: makes a vocabulary. Commits a tokenizer folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerWork {
    /// Settings.
    pub config: Tokenizer,
    /// The texts, in the order of the settings.
    pub data: Vec<Data>,
}

impl StageKind for Tokenizer {
    const NAME: &'static str = "tokenizer";
    const VERSION: u32 = 1;
}

impl Settings for Tokenizer {
    fn inputs(&self) -> Vec<Input> {
        source::inputs(&self.data).collect()
    }

    fn output(&self) -> Output<'_> {
        Output::Vocabulary
    }

    fn check(&self, check: &mut Check) {
        source::check(&self.data, check);
        check.integer("min_count", self.min_count, 1..=1_000_000_000);
        check.integer("max_vocab", self.max_vocab, 16..=10_000_000);
    }

    fn check_graph(&self, graph: &Graph<'_>, check: &mut Check) {
        source::check_graph(&self.data, graph, check);
    }

    fn split(&self) -> Split {
        Split::Global
    }

    fn role(&self) -> Role {
        Role::Curate
    }

    fn expand(&self, step: &Step<'_>) -> Result<Expansion, Error> {
        let work = TokenizerWork {
            config: self.clone(),
            data: step.data(&self.data)?,
        };
        step.single(work, |commit| step.given_model(commit))
    }
}

impl TaskWork for TokenizerWork {
    fn recipe(&self, _: &Scope<'_>) -> RecipeHash {
        let config = Tokenizer {
            data: source::nameless(&self.config.data),
            ..self.config.clone()
        };
        recipe::hash::<Tokenizer>(
            "",
            None,
            &config,
            &[],
            &recipe::metadata_of_data(&self.data),
        )
    }
}

fn min_count() -> u64 {
    2
}

fn max_vocab() -> usize {
    30_524
}
