//! `train`: a gang of ranks trains a model, from drawn weights or from another stage's model.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Family};
use super::augmentation::Augmentation;
use super::distillation::Distillation;
use super::source::{self, Source};
use super::towers::{TowerModels, Towers};
use super::validation::{KeepStep, Validation};
use super::{Input, Output, Settings, Split, StageKind, TaskWork, Wants, blank_stage};
use crate::check::Check;
use crate::commit::Shards;
use crate::expand::{Error, Next, Request};
use crate::id::{Digest, ModelDigest, RecipeHash, StageName};
use crate::pipeline::Graph;
use crate::recipe;
use crate::task::{Data, Role};

/// Which parameters decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Matrices of linear layers and convolutions.
    #[default]
    Matrices,
    /// What has two dimensions or more, as open_clip.
    Dimensions,
    /// Everything, as BLIP's original training.
    All,
}

impl Decay {
    fn is_matrices(&self) -> bool {
        *self == Self::Matrices
    }
}

/// A part of an objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Image-text contrastive.
    Itc,
    /// Image-text matching with hard negatives.
    Itm,
    /// Language modelling.
    Lm,
}

impl Objective {
    /// The objective as the pipeline file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Itc => "itc",
            Self::Itm => "itm",
            Self::Lm => "lm",
        }
    }
}

/// Which samples of a batch belong together: neither pushed apart by `itc` nor drawn as negatives by
/// `itm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positives {
    /// A sample and itself, as CLIP has it.
    Pair,
    /// Samples of one picture, as BLIP's retrieval has it.
    Picture,
    /// Samples of one picture or with the same tokens.
    #[default]
    PictureOrText,
}

/// `kind = "train"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The model's sizes; left out where `init` names a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// A stage whose model is trained further, instead of starting from drawn weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<StageName>,
    /// Stages whose models give the towers of a drawn model their weights, as BLIP begins with a ViT
    /// and a BERT; left out, all weights are drawn. Such a tower has the sizes of `architecture`; only
    /// its pictures may have another size. What it lacks is drawn: cross-attention, projections, heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towers: Option<Towers>,
    /// The samples.
    pub data: Vec<Source>,
    /// The stage whose vocabulary is used.
    pub tokenizer: StageName,
    /// What is minimised: `["itc"]` for CLIP; any of `itc, itm, lm` for BLIP.
    pub objectives: Vec<Objective>,
    /// Samples that belong together in a batch: `pair` (a sample and itself, as CLIP), `picture`
    /// (those of one picture, as BLIP's retrieval), `picture_or_text` (or with the same tokens).
    #[serde(default)]
    pub positives: Positives,
    /// Momentum encoders, queues and soft labels of `itc`, as BLIP's pre-training has them; left out,
    /// there are none. The trained model holds none of them: a stage that goes on from it begins with
    /// copies of its encoders and drawn queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<Distillation>,
    /// Optimiser steps.
    pub steps: u64,
    /// Samples of a step, over all ranks.
    pub global_batch: usize,
    /// Samples that a rank computes at a time, all of its own where it is left out. A smaller number
    /// needs less memory and a second forward pass; the gradient is that of the whole batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps that warm up.
    #[serde(default = "warmup")]
    pub warmup: f64,
    /// Steps that warm up, in place of a share; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Learning rate at the end, as a share of the peak.
    #[serde(default = "final_rate")]
    pub final_rate: f64,
    /// Weight decay.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// What decays: `matrices` (no gains, biases, embeddings, temperatures), `dimensions` (what has
    /// two or more, as open_clip), `all` (as BLIP's original training).
    #[serde(default, skip_serializing_if = "Decay::is_matrices")]
    pub decay: Decay,
    /// AdamW's betas.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Largest global norm of the gradient.
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    /// Share of the text transformer's activations and attention weights that a step drops, as BERT
    /// does; BLIP trains with 0.1. Which ones is drawn by seed, step and sample. With dropout the
    /// attention weights of all layers are in memory until the gradient is computed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Label smoothing of LM.
    #[serde(default)]
    pub label_smoothing: f64,
    /// What every text of LM begins with, read but not learned, such as `"a picture of "` in BLIP's
    /// fine-tuning.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Tokens of a text at most, special ones included; longer texts are cut. As many as the model
    /// takes where it is left out; BLIP pre-trains on 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_tokens: Option<usize>,
    /// How pictures are varied before `shift_px` and `brightness_jitter`; left out, they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augmentation>,
    /// Shift of the picture in pixels at most, edges repeated.
    #[serde(default)]
    pub shift_px: u32,
    /// Brightness jitter: factor `1 +- jitter`, offset `+- jitter / 2`.
    #[serde(default)]
    pub brightness_jitter: f32,
    /// Batches of one window that are sorted by text length together; 1 sorts nothing.
    #[serde(default = "length_bucket")]
    pub length_bucket: usize,
    /// Ranks of the gang.
    #[serde(default = "world_size")]
    pub world_size: usize,
    /// Threads that each rank computes on.
    #[serde(default = "threads_per_rank")]
    pub threads_per_rank: usize,
    /// Steps between two checkpoints; 0 writes none.
    #[serde(default = "checkpoint_steps")]
    pub checkpoint_steps: u64,
    /// How the model is measured while it is trained; left out, it is not. Neither the weights nor
    /// the order of the samples depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate: Option<Validation>,
    /// Which weights the stage gives: those of the `last` step, or of the `best` measured one (the
    /// earliest of several). With `best`, rank 0 and each checkpoint hold the best weights as well.
    #[serde(default, skip_serializing_if = "KeepStep::is_last")]
    pub keep: KeepStep,
}

/// Gang: trains. Commits a model folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainWork {
    /// The samples, in the order of the settings.
    pub data: Vec<Data>,
    /// The vocabulary.
    pub tokenizer: ModelDigest,
    /// The model to continue from.
    pub init: Option<ModelDigest>,
    /// The models that the towers begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towers: Option<TowerModels>,
    /// Shards of the validation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Shards>,
}

impl Train {
    fn check_objectives(&self, check: &mut Check) {
        let objectives = &self.objectives;
        check.count("objectives", objectives, 3, "objectives");
        let names: Vec<&str> = objectives
            .iter()
            .map(|objective| objective.as_str())
            .collect();
        let shown = format!("{names:?}");
        let distinct: BTreeSet<&&str> = names.iter().collect();
        let holds = distinct.len() == names.len();
        check.rule("objectives", &shown, holds, "each named once");
        let holds = !self.draws_clip() || objectives == &[Objective::Itc];
        check.rule("objectives", &shown, holds, "[\"itc\"] for CLIP");
    }

    fn check_momentum(&self, momentum: &Distillation, check: &mut Check) {
        let holds = self.objectives.contains(&Objective::Itc) && !self.draws_clip();
        check.rule("momentum", "{ ... }", holds, MOMENTUM_RULE);
        check.table("momentum", |check| momentum.check(check));
    }

    fn draws_clip(&self) -> bool {
        let architecture = self.architecture.as_ref();
        architecture.is_some_and(|sizes| sizes.family == Family::Clip)
    }
}

const DROPOUT_RULE: &str = "0 for CLIP, whose recipe has no dropout";
const MOMENTUM_RULE: &str = "left out unless `objectives` has itc and the model is a BLIP";

impl StageKind for Train {
    const NAME: &'static str = "train";
    const VERSION: u32 = 3;
}

impl Settings for Train {
    fn inputs(&self) -> Vec<Input> {
        let tokenizer = Input::new("tokenizer", &self.tokenizer, Wants::Vocabulary);
        let init = self.init.iter();
        let validation = self.validate.iter();
        source::inputs(&self.data)
            .chain([tokenizer])
            .chain(init.map(|init| Input::new("init", init, Wants::Model)))
            .chain(self.towers.iter().flat_map(Towers::inputs))
            .chain(validation.map(|set| Input::new("validate.from", &set.from, Wants::Dataset)))
            .collect()
    }

    fn output(&self) -> Output<'_> {
        Output::Model
    }

    fn check(&self, check: &mut Check) {
        let either = self.architecture.is_some() != self.init.is_some();
        let text = "given where `init` is not, and left out where it is";
        check.rule("architecture", "...", either, text);
        if let Some(architecture) = &self.architecture {
            check.table("architecture", |check| architecture.check(check));
        }
        if let Some(towers) = &self.towers {
            let text = "left out where `init` names a model, which has both";
            check.rule("towers", "{ ... }", self.init.is_none(), text);
            towers.check(check);
        }
        source::check(&self.data, check);
        self.check_objectives(check);
        check.any("positives", "every rule is meant");
        if let Some(momentum) = &self.momentum {
            self.check_momentum(momentum, check);
        }
        check.integer("steps", self.steps, 1..=1_000_000_000);
        check.integer("world_size", self.world_size, 1..=65_536);
        check.integer("global_batch", self.global_batch, 1..=16_777_216);
        let divides = self.world_size > 0 && self.global_batch.is_multiple_of(self.world_size);
        let text = format!("a multiple of `world_size` {}", self.world_size);
        check.rule("global_batch", self.global_batch, divides, &text);
        if let Some(chunk) = self.chunk {
            check.integer("chunk", chunk, 1..=16_777_216);
        }
        check.number(
            "learning_rate",
            self.learning_rate,
            (Bound::Excluded(0.0), Bound::Included(10.0)),
        );
        check.number("warmup", self.warmup, 0.0..=1.0);
        if let Some(steps) = self.warmup_steps {
            check.integer("warmup_steps", steps, 0..=1_000_000_000);
        }
        check.any("decay", "every rule is meant");
        check.number("final_rate", self.final_rate, 0.0..=1.0);
        check.number("weight_decay", self.weight_decay, 0.0..=10.0);
        let betas = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        check.rule(
            "betas",
            format!("{:?}", self.betas),
            betas,
            "two numbers of at least 0 and below 1",
        );
        check.number(
            "epsilon",
            self.epsilon,
            (Bound::Excluded(0.0), Bound::Included(1.0)),
        );
        check.number(
            "clip_norm",
            self.clip_norm,
            (Bound::Excluded(0.0), Bound::Included(1e9)),
        );
        check.number("dropout", self.dropout, 0.0..1.0);
        let holds = self.dropout == 0.0 || !self.draws_clip();
        check.rule("dropout", self.dropout, holds, DROPOUT_RULE);
        check.number("label_smoothing", self.label_smoothing, 0.0..1.0);
        let holds = self.prompt.is_empty() || self.objectives == [Objective::Lm];
        let text = "empty unless `objectives` is [\"lm\"]: the other objectives read whole texts";
        check.rule("prompt", format!("{:?}", self.prompt), holds, text);
        if let Some(tokens) = self.text_tokens {
            check.integer("text_tokens", tokens, 3..=65_536);
        }
        if let Some(augment) = &self.augment {
            check.table("augment", |check| augment.check(check));
        }
        check.integer("shift_px", self.shift_px, 0..=1_024);
        check.number(
            "brightness_jitter",
            f64::from(self.brightness_jitter),
            0.0..=1.0,
        );
        check.integer("length_bucket", self.length_bucket, 1..=65_536);
        check.integer("threads_per_rank", self.threads_per_rank, 1..=1_024);
        check.integer("checkpoint_steps", self.checkpoint_steps, 0..=1_000_000_000);
        if let Some(validation) = &self.validate {
            check.table("validate", |check| validation.check(self, check));
        }
        let holds = self.keep == KeepStep::Last || self.validate.is_some();
        let text = "\"last\" unless `validate` says how the best step is found";
        check.rule("keep", "\"best\"", holds, text);
    }

    fn check_graph(&self, graph: &Graph<'_>, check: &mut Check) {
        source::check_graph(&self.data, graph, check);
        if let (Some(towers), Some(sizes)) = (&self.towers, &self.architecture) {
            towers.check_graph(sizes.family, graph, check);
        }
        let Some(init) = &self.init else { return };
        let shown = format!("{:?}", init.as_str());
        if let Some(trainings) = graph.trainings(init) {
            let holds = trainings
                .iter()
                .all(|train| train.tokenizer == self.tokenizer);
            let text = "the vocabulary of the model that `init` names";
            check.rule(
                "tokenizer",
                format!("{:?}", self.tokenizer.as_str()),
                holds,
                text,
            );
        }
        if let Some(known) = graph.objectives(init) {
            let holds = self
                .objectives
                .iter()
                .all(|objective| known.contains(objective));
            let text = "a model that was trained with these objectives, so that it has their heads";
            check.rule("init", shown, holds, text);
        }
        let is_clip = graph.family(init) == Some(Family::Clip);
        if self.momentum.is_some() {
            check.rule("momentum", "{ ... }", !is_clip, MOMENTUM_RULE);
        }
        if self.dropout != 0.0 {
            check.rule("dropout", self.dropout, !is_clip, DROPOUT_RULE);
        }
    }

    fn split(&self) -> Split {
        Split::Gang
    }

    fn role(&self) -> Role {
        Role::Train
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn computes(&self) -> bool {
        true
    }

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let init = self.init.as_ref();
        let towers = self.towers.as_ref();
        let validation = self.validate.as_ref();
        let validation = validation.map(|set| request.dataset(&set.from).cloned());
        let work = TrainWork {
            data: request.data(&self.data)?,
            tokenizer: request.model(&self.tokenizer)?,
            init: init.map(|init| request.model(init)).transpose()?,
            towers: towers.map(|towers| towers.models(request)).transpose()?,
            validation: validation.transpose()?,
        };
        let recipe = self.recipe(request, &work);
        request.single(work, recipe, |outputs| request.given_model(outputs))
    }
}

impl Train {
    fn recipe(&self, request: &Request<'_>, work: &TrainWork) -> RecipeHash {
        let config = Train {
            data: source::nameless(&self.data),
            tokenizer: blank_stage(),
            init: self.init.as_ref().map(|_| blank_stage()),
            towers: self.towers.as_ref().map(Towers::nameless),
            // A run that is killed and resumed gives the same model, so how often it is saved
            // shapes nothing.
            checkpoint_steps: 0,
            validate: self.validate.as_ref().map(Validation::nameless),
            ..self.clone()
        };
        let models = [work.tokenizer].into_iter().chain(work.init);
        let towers = work.towers.iter().flat_map(TowerModels::digests);
        let models: Vec<Digest> = models.map(|model| model.0).chain(towers).collect();
        let data = work.data.iter().map(|data| &data.shards);
        let inputs = data.chain(&work.validation);
        let inputs: Vec<Digest> = inputs.map(|shards| shards.with_pixels).collect();
        let seed = Some(request.seed);
        recipe::of_device::<Self>("", seed, &config, &models, &inputs, request.device)
    }
}

impl TaskWork for TrainWork {}

fn warmup() -> f64 {
    0.1
}

fn final_rate() -> f64 {
    0.02
}

fn weight_decay() -> f64 {
    0.05
}

fn betas() -> [f64; 2] {
    [0.9, 0.98]
}

fn epsilon() -> f64 {
    1e-8
}

fn clip_norm() -> f64 {
    1.0
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn length_bucket() -> usize {
    4
}

fn world_size() -> usize {
    2
}

fn threads_per_rank() -> usize {
    1
}

fn checkpoint_steps() -> u64 {
    200
}
