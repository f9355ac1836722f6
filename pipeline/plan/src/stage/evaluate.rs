//! `evaluate`: a model is measured on held-out pictures.

use serde::{Deserialize, Serialize};

use super::{
    Decoding, Input, Objective, Output, Settings, Split, StageKind, TaskWork, Wants, blank_stage,
};
use crate::check::Check;
use crate::commit::Shards;
use crate::expand::{ALL, Error, Next, Outcome, Request};
use crate::id::{Digest, ModelDigest, RecipeHash, StageName};
use crate::pipeline::Graph;
use crate::recipe;
use crate::task::Role;

/// Retrieval among the pictures and texts of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// The stage whose dataset holds pictures with their reference texts.
    pub from: StageName,
    /// Candidates re-scored by ITM (BLIP); 0 re-ranks nothing.
    #[serde(default)]
    pub rerank: usize,
}

/// Captioning against reference texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captioning {
    /// The stage whose dataset holds pictures with their reference texts.
    pub from: StageName,
    /// How captions are written.
    pub decoding: Decoding,
}

/// Zero-shot classification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot {
    /// The stage whose dataset holds pictures with their class as the one text.
    pub from: StageName,
    /// Templates, `{}` stands for the class; their normalised embeddings are averaged.
    pub templates: Vec<String>,
}

/// `kind = "evaluate"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The stage whose model is measured.
    pub model: StageName,
    /// The same model after LM fine-tuning, for `captioning_fine_tuned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioner: Option<StageName>,
    /// Retrieval, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// Captioning, where asked for (BLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioning: Option<Captioning>,
    /// Zero-shot classification, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShot>,
    /// Whether everything is measured once more with the pictures permuted so that none keeps its place.
    #[serde(default)]
    pub blind: bool,
}

/// Global: measures. Commits figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateWork {
    /// The model.
    pub model: ModelDigest,
    /// The fine-tuned one.
    pub captioner: Option<ModelDigest>,
    /// Shards of the retrieval set.
    pub retrieval: Option<Shards>,
    /// Shards of the captioning set.
    pub captioning: Option<Shards>,
    /// Shards of the zero-shot set.
    pub zero_shot: Option<Shards>,
}

impl Evaluate {
    /// The stages whose datasets it measures on, each with its key.
    fn sets(&self) -> [(&'static str, Option<&StageName>); 3] {
        [
            ("retrieval", self.retrieval.as_ref().map(|set| &set.from)),
            ("captioning", self.captioning.as_ref().map(|set| &set.from)),
            ("zero_shot", self.zero_shot.as_ref().map(|set| &set.from)),
        ]
    }

    /// The settings without the names of stages.
    fn nameless(&self) -> Self {
        let mut config = self.clone();
        config.model = blank_stage();
        config.captioner = config.captioner.map(|_| blank_stage());
        let sets = [
            config.retrieval.as_mut().map(|set| &mut set.from),
            config.captioning.as_mut().map(|set| &mut set.from),
            config.zero_shot.as_mut().map(|set| &mut set.from),
        ];
        for from in sets.into_iter().flatten() {
            *from = blank_stage();
        }
        config
    }
}

impl StageKind for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 3;
}

impl Settings for Evaluate {
    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::new("model", &self.model, Wants::Model)];
        let captioner = self.captioner.iter();
        inputs.extend(captioner.map(|model| Input::new("captioner", model, Wants::Model)));
        for (key, from) in self.sets() {
            let key = format!("{key}.from");
            inputs.extend(from.map(|from| Input::new(key, from, Wants::Dataset)));
        }
        inputs
    }

    fn output(&self) -> Output<'_> {
        Output::Figures
    }

    fn check(&self, check: &mut Check) {
        let measures = self.sets().iter().any(|(_, set)| set.is_some());
        let text = "given, or `captioning` or `zero_shot`: nothing is measured";
        check.rule("retrieval", "none", measures, text);
        let needed = self.captioner.is_none() || self.captioning.is_some();
        let text = "given beside `captioning`, which says on which pictures it writes";
        check.rule("captioner", "...", needed, text);
        if let Some(retrieval) = &self.retrieval {
            check.integer("retrieval.rerank", retrieval.rerank, 0..=100_000);
        }
        if let Some(captioning) = &self.captioning {
            check.table("captioning.decoding", |check| {
                captioning.decoding.check(check)
            });
        }
        if let Some(zero_shot) = &self.zero_shot {
            check_templates(check, "zero_shot.templates", &zero_shot.templates);
        }
        check.any("blind", "both values are meant");
    }

    fn check_graph(&self, graph: &Graph<'_>, check: &mut Check) {
        let trained = |objective| graph.may_be_trained(&self.model, objective);
        if let Some(retrieval) = &self.retrieval {
            let holds = retrieval.rerank == 0 || trained(Objective::Itm);
            let text = "0 unless the model was trained with objective itm";
            check.rule("retrieval.rerank", retrieval.rerank, holds, text);
        }
        if let Some(captioning) = &self.captioning {
            let holds = trained(Objective::Lm);
            let from = format!("{:?}", captioning.from.as_str());
            let text = "left out unless the model was trained with objective lm";
            check.rule("captioning.from", from, holds, text);
        }
        if let Some(captioner) = &self.captioner {
            graph.check_trained(check, "captioner", captioner, Objective::Lm);
        }
        let contrasts = trained(Objective::Itc);
        let holds = contrasts || (self.retrieval.is_none() && self.zero_shot.is_none());
        let text = "trained with objective itc for retrieval and zero_shot";
        check.rule("model", format!("{:?}", self.model.as_str()), holds, text);
    }

    fn split(&self) -> Split {
        Split::Global
    }

    fn role(&self) -> Role {
        Role::Evaluate
    }

    fn computes(&self) -> bool {
        true
    }

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let shards = |from: Option<&StageName>| match from {
            Some(from) => request.dataset(from).cloned().map(Some),
            None => Ok(None),
        };
        let captioner = self.captioner.as_ref();
        let [retrieval, captioning, zero_shot] = self.sets().map(|(_, from)| shards(from));
        let work = EvaluateWork {
            model: request.model(&self.model)?,
            captioner: captioner.map(|model| request.model(model)).transpose()?,
            retrieval: retrieval?,
            captioning: captioning?,
            zero_shot: zero_shot?,
        };
        let recipe = self.recipe(request, &work);
        request.single(work, recipe, |outputs| match outputs.evaluation {
            Some(_) => Ok(Outcome::Figures),
            None => Err(request.damaged(&ALL.into(), "holds no figures")),
        })
    }
}

impl Evaluate {
    fn recipe(&self, request: &Request<'_>, work: &EvaluateWork) -> RecipeHash {
        let config = self.nameless();
        let captioning = config.captioning.as_ref();
        let draws = config.blind || captioning.is_some_and(|set| set.decoding.draws());
        let models = [work.model].into_iter().chain(work.captioner);
        let models: Vec<Digest> = models.map(|model| model.0).collect();
        let sets = [&work.retrieval, &work.captioning, &work.zero_shot];
        let input = |shards: &Option<Shards>| {
            let shards = shards.as_ref();
            shards.map_or_else(recipe::no_shards, |shards| shards.with_pixels)
        };
        let seed = draws.then_some(request.seed);
        let inputs = sets.map(input);
        recipe::of_device::<Self>("", seed, &config, &models, &inputs, request.device)
    }
}

impl TaskWork for EvaluateWork {}

/// States the rules of templates of zero-shot classification under `key`.
pub(super) fn check_templates(check: &mut Check, key: &str, templates: &[String]) {
    check.count(key, templates, 10_000, "templates");
    let odd = templates
        .iter()
        .find(|text| text.matches("{}").count() != 1);
    let shown = format!("{:?}", odd.map_or("", String::as_str));
    let text = "texts with one `{}`, which stands for the class";
    check.rule(key, shown, odd.is_none(), text);
}
