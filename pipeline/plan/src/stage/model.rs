//! `model`: an existing model takes the place of a trained one.

use serde::{Deserialize, Serialize};

use super::{Input, Output, Settings, Split, StageKind, TaskWork};
use crate::check::Check;
use crate::expand::{Error, Next, Request};
use crate::id::{Digest, ModelDigest};
use crate::recipe;
use crate::task::Role;

/// `kind = "model"`: an existing model, in place of training one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenModel {
    /// Folder in Hugging Face layout (`config.json`, `model.safetensors`, `vocab.txt`,
    /// `preprocessor_config.json`): a path below the first of `[import] roots` of the configuration
    /// that has it, or an absolute path below one of them. A ViT, or a BERT with its `vocab.txt`,
    /// serves `towers` of a training alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of a model: without `source` one that the store holds already; with it, what the
    /// folder must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ModelDigest>,
}

/// Global: reads a model. Commits a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelWork {}

impl StageKind for GivenModel {
    const NAME: &'static str = "model";
    const VERSION: u32 = 1;
}

impl Settings for GivenModel {
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn output(&self) -> Output<'_> {
        Output::Model
    }

    fn check(&self, check: &mut Check) {
        let given = self.source.is_some() || self.digest.is_some();
        let text = "given, or `digest` of a model in the store";
        check.rule("source", "none", given, text);
        check.text("source", self.source.as_deref().unwrap_or("none"), 4_096);
        check.any(
            "digest",
            "64 hexadecimal digits, checked when the file is read",
        );
    }

    fn split(&self) -> Split {
        Split::Global
    }

    fn role(&self) -> Role {
        Role::Crawl
    }

    /// A digest says all; of a folder without one nothing is known here.
    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let run = self.digest.is_none().then_some(request.run);
        let source = self.source.as_ref().filter(|_| run.is_some());
        let models: Vec<Digest> = self.digest.iter().map(|model| model.0).collect();
        let recipe = recipe::hash::<Self>("", None, &(source, run), &models, &[]);
        request.single(ModelWork {}, recipe, |outputs| request.given_model(outputs))
    }
}

impl TaskWork for ModelWork {}
