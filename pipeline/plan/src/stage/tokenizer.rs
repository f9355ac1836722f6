//! `tokenizer`: one vocabulary for all arms, learnt from the texts of several datasets.

use serde::{Deserialize, Serialize};

use super::source::{self, Source};
use super::{Input, Output, Settings, Split, StageKind, TaskWork};
use crate::check::Check;
use crate::expand::{Error, Next, Request};
use crate::id::Digest;
use crate::pipeline::Graph;
use crate::recipe;
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

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let data = request.data(&self.data)?;
        let config = Self {
            data: source::nameless(&self.data),
            ..self.clone()
        };
        let inputs: Vec<Digest> = data.iter().map(|data| data.shards.metadata).collect();
        let recipe = recipe::hash::<Self>("", None, &config, &[], &inputs);
        let work = TokenizerWork { data };
        request.single(work, recipe, |outputs| request.given_model(outputs))
    }
}

impl TaskWork for TokenizerWork {}

fn min_count() -> u64 {
    2
}

fn max_vocab() -> usize {
    30_524
}
