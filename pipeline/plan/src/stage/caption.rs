//! `caption`: a model writes synthetic texts, shard by shard.

use serde::{Deserialize, Serialize};

use super::{
    Decoding, Input, Objective, Output, Overlaid, Settings, Split, StageKind, TaskWork, Wants,
    blank_stage,
};
use crate::check::Check;
use crate::commit::{FileKind, Part};
use crate::expand::{Error, Next, Request};
use crate::id::{ModelDigest, StageName};
use crate::pipeline::Graph;
use crate::recipe::Recipes;
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

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let model = request.model(&self.model)?;
        let config = Self {
            from: blank_stage(),
            model: blank_stage(),
            ..self.clone()
        };
        let seed = config.decoding.draws().then_some(request.seed);
        let recipes = Recipes::new::<Self>("", seed, &config, &[model.0]);
        let work = move |part| CaptionWork { part, model };
        let input = Part::digest_with_pixels;
        request.per_shard(&self.from, FileKind::Captions, recipes, input, work)
    }
}

impl TaskWork for CaptionWork {
    fn overlaid(&self) -> Overlaid<'_> {
        Overlaid::One(&self.part)
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
