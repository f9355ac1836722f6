//! `filter`: a model judges web and synthetic texts, shard by shard.

use serde::{Deserialize, Serialize};

use super::{
    Input, Objective, Output, Overlaid, Settings, Split, StageKind, TaskWork, Wants, blank_stage,
};
use crate::check::Check;
use crate::commit::{FileKind, Part};
use crate::expand::{Error, Next, Request};
use crate::id::{ModelDigest, StageName};
use crate::pipeline::Graph;
use crate::recipe::Recipes;
use crate::task::Role;

/// `kind = "filter"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The stage whose texts are judged.
    pub from: StageName,
    /// The stage whose model judges.
    pub model: StageName,
    /// Least probability of a match (ITM) of a text that is kept.
    #[serde(default = "threshold")]
    pub threshold: f32,
    /// Pictures at a time.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Tokens of a text at most, special ones included; longer texts are cut. As many as the model
    /// takes where it is left out; BLIP's retrieval reads 35.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_tokens: Option<usize>,
}

/// Map: judges the texts of one shard. Commits a `Verdicts` overlay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterWork {
    /// The shard.
    pub part: Part,
    /// The model that judges.
    pub model: ModelDigest,
}

impl StageKind for Filter {
    const NAME: &'static str = "filter";
    const VERSION: u32 = 2;
}

impl Settings for Filter {
    fn inputs(&self) -> Vec<Input> {
        vec![
            Input::new("from", &self.from, Wants::Dataset),
            Input::new("model", &self.model, Wants::Model),
        ]
    }

    fn output(&self) -> Output<'_> {
        Output::DatasetOf(&self.from)
    }

    fn check(&self, check: &mut Check) {
        check.number("threshold", f64::from(self.threshold), 0.0..=1.0);
        check.integer("batch", self.batch, 1..=65_536);
        if let Some(tokens) = self.text_tokens {
            check.integer("text_tokens", tokens, 3..=65_536);
        }
    }

    fn check_graph(&self, graph: &Graph<'_>, check: &mut Check) {
        graph.check_trained(check, "model", &self.model, Objective::Itm);
    }

    fn split(&self) -> Split {
        Split::PerShard
    }

    fn role(&self) -> Role {
        Role::Filter
    }

    fn computes(&self) -> bool {
        true
    }

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let model = request.model(&self.model)?;
        let config = Self {
            from: blank_stage(),
            model: blank_stage(),
            ..self.clone()
        };
        let recipes = Recipes::new::<Self>("", None, &config, &[model.0]);
        let work = move |part| FilterWork { part, model };
        let input = Part::digest_with_pixels;
        request.per_shard(&self.from, FileKind::Verdicts, recipes, input, work)
    }
}

impl TaskWork for FilterWork {
    fn overlaid(&self) -> Overlaid<'_> {
        Overlaid::One(&self.part)
    }

    fn part(&self) -> Option<&Part> {
        Some(&self.part)
    }
}

fn threshold() -> f32 {
    0.5
}

fn batch() -> usize {
    64
}
