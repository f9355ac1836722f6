//! `curate`: texts are filtered and matched against the query list, shard by shard.

use serde::{Deserialize, Serialize};

use super::{Input, Output, Overlaid, Settings, Split, StageKind, TaskWork, Wants, blank_stage};
use crate::check::Check;
use crate::commit::{FileKind, Part};
use crate::expand::{Error, Next, Request};
use crate::id::StageName;
use crate::recipe::Recipes;
use crate::task::Role;

/// `kind = "curate"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curate {
    /// The stage whose dataset is curated.
    pub from: StageName,
    /// Characters of a text at least.
    #[serde(default = "min_chars")]
    pub min_chars: usize,
    /// Characters of a text at most.
    #[serde(default = "max_chars")]
    pub max_chars: usize,
    /// Words of a text at least.
    #[serde(default = "min_words")]
    pub min_words: usize,
    /// Words of a text at most.
    #[serde(default = "max_words")]
    pub max_words: usize,
    /// Longer side over shorter side at most.
    #[serde(default = "max_aspect")]
    pub max_aspect: f32,
    /// The query list; a text that matches none is dropped. Matching is as MetaCLIP does it:
    /// whole words, case kept.
    pub queries: Vec<String>,
}

/// Map: curates one shard. Commits a `Curation` overlay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurateWork {
    /// The shard.
    pub part: Part,
}

impl StageKind for Curate {
    const NAME: &'static str = "curate";
    const VERSION: u32 = 1;
}

impl Settings for Curate {
    fn inputs(&self) -> Vec<Input> {
        vec![Input::new("from", &self.from, Wants::Dataset)]
    }

    fn output(&self) -> Output<'_> {
        Output::DatasetOf(&self.from)
    }

    fn check(&self, check: &mut Check) {
        check.integer("min_chars", self.min_chars, 0..=1_000_000);
        check.integer(
            "max_chars",
            self.max_chars,
            self.min_chars.max(1)..=1_000_000,
        );
        check.integer("min_words", self.min_words, 0..=1_000_000);
        check.integer(
            "max_words",
            self.max_words,
            self.min_words.max(1)..=1_000_000,
        );
        check.number("max_aspect", f64::from(self.max_aspect), 1.0..=1_000.0);
        check.count("queries", &self.queries, 10_000_000, "queries");
        let blank = self.queries.iter().find(|query| query.trim().is_empty());
        let text = "words; an empty query matches nothing";
        check.rule("queries", "\"\"", blank.is_none(), text);
    }

    fn split(&self) -> Split {
        Split::PerShard
    }

    fn role(&self) -> Role {
        Role::Curate
    }

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let config = Self {
            from: blank_stage(),
            ..self.clone()
        };
        let recipes = Recipes::new::<Self>("", None, &config, &[]);
        let work = |part| CurateWork { part };
        let input = Part::digest_of_metadata;
        request.per_shard(&self.from, FileKind::Curation, recipes, input, work)
    }
}

impl TaskWork for CurateWork {
    fn overlaid(&self) -> Overlaid<'_> {
        Overlaid::One(&self.part)
    }

    fn part(&self) -> Option<&Part> {
        Some(&self.part)
    }
}

fn min_chars() -> usize {
    5
}

fn max_chars() -> usize {
    1000
}

fn min_words() -> usize {
    1
}

fn max_words() -> usize {
    256
}

fn max_aspect() -> f32 {
    3.0
}
