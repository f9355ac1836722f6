//! `filter`: a model judges web and synthetic texts, shard by shard.

use serde::{Deserialize, Serialize};

use super::{Input, Objective, Output, Settings, Split, StageKind, TaskWork, Wants, blank_stage};
use crate::check::Check;
use crate::commit::{FileKind, Part};
use crate::expand::{Error, Expansion, Step};
use crate::id::{ModelDigest, RecipeHash, StageName};
use crate::pipeline::Graph;
use crate::recipe::{self, Scope};
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
}

/// Map: judges the texts of one shard. Commits a `Verdicts` overlay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterWork {
    /// Settings.
    pub config: Filter,
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

    fn expand(&self, step: &Step<'_>) -> Result<Expansion, Error> {
        let model = step.model(&self.model)?;
        step.per_shard(&self.from, FileKind::Verdicts, |part| FilterWork {
            config: self.clone(),
            part,
            model,
        })
    }
}

impl TaskWork for FilterWork {
    fn recipe(&self, scope: &Scope<'_>) -> RecipeHash {
        let config = Filter {
            from: blank_stage(),
            model: blank_stage(),
            ..self.config.clone()
        };
        let inputs = [self.part.digest_with_pixels()];
        recipe::of_device::<Filter>("", None, &config, &[self.model.0], &inputs, scope.device)
    }

    fn overlaid(&self) -> &[Part] {
        std::slice::from_ref(&self.part)
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
