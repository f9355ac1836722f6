//! Towers of a training that begin with the weights of given models.

use serde::{Deserialize, Serialize};

use super::architecture::Family;
use super::{Input, Wants, blank_stage};
use crate::check::Check;
use crate::expand::{Error, Request};
use crate::id::{Digest, ModelDigest, StageName};
use crate::pipeline::Graph;

/// The stages whose models give the towers of a drawn model their weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Towers {
    /// The stage whose vision transformer is taken: a ViT or a BLIP for a BLIP, a CLIP for a CLIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<StageName>,
    /// The stage whose text transformer is taken: a BERT for a BLIP, a CLIP for a CLIP. `tokenizer`
    /// must begin with all of its tokens; the embeddings of further tokens are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<StageName>,
}

/// The models of [`Towers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TowerModels {
    /// The model whose vision transformer is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<ModelDigest>,
    /// The model whose text transformer is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<ModelDigest>,
}

impl Towers {
    /// The keys below `towers` with the stages that they name.
    fn named(&self) -> impl Iterator<Item = (&'static str, &StageName)> {
        let both = [("towers.vision", &self.vision), ("towers.text", &self.text)];
        both.into_iter()
            .filter_map(|(key, stage)| Some((key, stage.as_ref()?)))
    }

    /// The stages that are read.
    pub fn stages(&self) -> impl Iterator<Item = &StageName> {
        self.named().map(|(_, stage)| stage)
    }

    pub(super) fn inputs(&self) -> impl Iterator<Item = Input> {
        self.named()
            .map(|(key, stage)| Input::new(key, stage, Wants::Model))
    }

    /// States the rules of the settings.
    pub(super) fn check(&self, check: &mut Check) {
        let holds = self.vision.is_some() || self.text.is_some();
        check.rule("towers", "{}", holds, "given a `vision`, a `text` or both");
    }

    /// States that models of a known family have a tower for this one.
    pub(super) fn check_graph(&self, family: Family, graph: &Graph<'_>, check: &mut Check) {
        for (key, stage) in self.named() {
            let Some(found) = graph.family(stage) else {
                continue;
            };
            let (fits, text) = match (key, family) {
                (_, Family::Clip) => (found == Family::Clip, "a CLIP, because this is one"),
                ("towers.vision", Family::Blip) => (
                    found == Family::Blip,
                    "a ViT or a BLIP, because this is a BLIP",
                ),
                (_, Family::Blip) => (
                    false,
                    "a stage of kind `model` with a BERT, because this is a BLIP",
                ),
            };
            check.rule(key, format!("{:?}", stage.as_str()), fits, text);
        }
    }

    /// The models that the stages gave.
    pub(super) fn models(&self, request: &Request<'_>) -> Result<TowerModels, Error> {
        let model = |stage: &Option<StageName>| {
            let stage = stage.as_ref();
            stage.map(|stage| request.model(stage)).transpose()
        };
        Ok(TowerModels {
            vision: model(&self.vision)?,
            text: model(&self.text)?,
        })
    }

    /// The settings without names of stages, which shape nothing.
    pub(super) fn nameless(&self) -> Self {
        let blank = |stage: &Option<StageName>| stage.as_ref().map(|_| blank_stage());
        Self {
            vision: blank(&self.vision),
            text: blank(&self.text),
        }
    }
}

impl TowerModels {
    /// The digests, in the order of the keys.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let both = [self.vision, self.text];
        both.into_iter().flatten().map(|model| model.0)
    }
}
