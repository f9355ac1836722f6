//! `caption`: a model writes synthetic texts, shard by shard.

use serde::{Deserialize, Serialize};

use super::{
    Decoding, Input, Objective, Output, Settings, Split, StageKind, TaskWork, Wants, blank_stage,
};
use crate::check::Check;
use crate::commit::{FileKind, Part};
use crate::expand::{Error, Expansion, Step};
use crate::id::{ModelDigest, RecipeHash, StageName};
use crate::pipeline::Graph;
use crate::recipe::{self, Scope};
use crate::task::Role;

/// `kind = "caption"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    /// The stage whose dataset is captioned.
    pub from: StageName,
    /// The stage whose model writes.
    pub model: StageName,
    /// How it writes.
    pub decoding: Decoding,
    /// Pictures at a time.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Texts per picture.
    #[serde(default = "captions_per_image")]
    pub captions_per_image: usize,
}

/// Map: captions one shard. Commits a `Captions` overlay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionWork {
    /// Settings.
    pub config: Caption,
    /// The shard.
    pub part: Part,
    /// The model that writes.
    pub model: ModelDigest,
}

impl StageKind for Caption {
    const NAME: &'static str = "caption";
    const VERSION: u32 = 2;
}

impl Settings for Caption {
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
        check.table("decoding", |check| self.decoding.check(check));
        check.integer("batch", self.batch, 1..=65_536);
        check.integer("captions_per_image", self.captions_per_image, 1..=1_000);
        let holds = self.captions_per_image == 1 || self.decoding.draws();
        let text = "1 unless decoding draws (nucleus): the other strategies give one text";
        check.rule("captions_per_image", self.captions_per_image, holds, text);
    }

    fn check_graph(&self, graph: &Graph<'_>, check: &mut Check) {
        graph.check_trained(check, "model", &self.model, Objective::Lm);
    }

    fn split(&self) -> Split {
        Split::PerShard
    }

    fn role(&self) -> Role {
        Role::Caption
    }

    fn computes(&self) -> bool {
        true
    }

    fn expand(&self, step: &Step<'_>) -> Result<Expansion, Error> {
        let model = step.model(&self.model)?;
        step.per_shard(&self.from, FileKind::Captions, |part| CaptionWork {
            config: self.clone(),
            part,
            model,
        })
    }
}

impl TaskWork for CaptionWork {
    fn recipe(&self, scope: &Scope<'_>) -> RecipeHash {
        let config = Caption {
            from: blank_stage(),
            model: blank_stage(),
            ..self.config.clone()
        };
        let seed = config.decoding.draws().then_some(scope.seed);
        let inputs = [self.part.digest_with_pixels()];
        recipe::of_device::<Caption>("", seed, &config, &[self.model.0], &inputs, scope.device)
    }

    fn overlaid(&self) -> &[Part] {
        std::slice::from_ref(&self.part)
    }

    fn part(&self) -> Option<&Part> {
        Some(&self.part)
    }
}

fn batch() -> usize {
    64
}

fn captions_per_image() -> usize {
    1
}
