//! The arms of the comparison: the family of each model and the texts that it was trained on.
//!
//! [`arms`] derives them from the graph of the pipeline, so that stages may have any name:
//!
//! ```text
//! train ─► data ─► filter ─► caption ─► balance ─► curate ─► crawl | import
//!   │ init             └ `kept`  └ synthetic texts        web texts | human texts
//!   └► train ─► data ...
//! ```

use std::collections::BTreeMap;

use capstan_plan::Pipeline;
use capstan_plan::id::StageName;
use capstan_plan::results::ModelFigures;
use capstan_plan::row::Origin;
use capstan_plan::stage::{Family, Kind, Source, Towers, Train, Use};
use serde::{Deserialize, Serialize};

use crate::summary::Summary;

/// The texts that a model was trained on, in the order of the page.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// Texts of the web that no filter has judged.
    Web,
    /// Texts of annotators alone.
    Human,
    /// Web texts that a filter kept.
    FilterOnly,
    /// Synthetic texts that no filter has judged.
    CaptionerOnly,
    /// Synthetic texts that a filter kept.
    Bootstrapped,
    /// Unknown: the model was not trained by this pipeline.
    #[default]
    Unknown,
}

impl Texts {
    /// Title of the arm on the page.
    pub fn title(self) -> &'static str {
        match self {
            Self::Web => "Web",
            Self::Human => "Human only",
            Self::FilterOnly => "Filter only",
            Self::CaptionerOnly => "Captioner only",
            Self::Bootstrapped => "Bootstrapped",
            Self::Unknown => "Other",
        }
    }

    /// The texts in words; empty where they are not known.
    pub fn description(self) -> &'static str {
        match self {
            Self::Web => "curated web texts + human pairs",
            Self::Human => "human pairs alone",
            Self::FilterOnly => "kept web texts + human pairs",
            Self::CaptionerOnly => "web texts + synthetic texts + human pairs",
            Self::Bootstrapped => "kept web + kept synthetic texts + human pairs",
            Self::Unknown => "",
        }
    }

    /// The class by which the style sheet colours the arm.
    pub fn class(self) -> &'static str {
        match self {
            Self::Web => "c-web",
            Self::Human => "c-human",
            Self::FilterOnly => "c-filter",
            Self::CaptionerOnly => "c-captioner",
            Self::Bootstrapped => "c-boot",
            Self::Unknown => "c-other",
        }
    }
}

/// The place of a model in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Arm {
    /// The family of the model; absent where the model was brought in from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// The texts that it was trained on.
    pub texts: Texts,
}

/// The arms of a pipeline, by the stage that gives the model.
pub fn arms(pipeline: &Pipeline) -> BTreeMap<StageName, Arm> {
    let arm = |stage: &capstan_plan::stage::Stage| match &stage.kind {
        Kind::Train(train) => Some(Arm {
            family: family(train, pipeline),
            texts: Seen::of(train, pipeline).texts(),
        }),
        Kind::Model(_) => Some(Arm::default()),
        _ => None,
    };
    let stages = pipeline.stages.iter();
    stages
        .filter_map(|stage| Some((stage.name.clone(), arm(stage)?)))
        .collect()
}

/// The family of the model that a stage trains, through as many `init` as it takes.
pub fn family(train: &Train, pipeline: &Pipeline) -> Option<Family> {
    let mut lineage = Lineage::of(train, pipeline);
    lineage.find_map(|train| train.architecture.as_ref().map(|sizes| sizes.family))
}

/// A training, then the one that its `init` names, and so on.
struct Lineage<'a> {
    next: Option<&'a Train>,
    pipeline: &'a Pipeline,
    /// Trainings left; a pipeline that was not checked may have a cycle.
    left: usize,
    /// Whether weights of it are of a model from outside, or of a tower, whose texts are not followed.
    is_given: bool,
}

impl<'a> Lineage<'a> {
    fn of(train: &'a Train, pipeline: &'a Pipeline) -> Self {
        Self {
            next: Some(train),
            pipeline,
            left: pipeline.stages.len().max(1),
            is_given: false,
        }
    }
}

impl<'a> Iterator for Lineage<'a> {
    type Item = &'a Train;

    fn next(&mut self) -> Option<&'a Train> {
        let train = self.next.take()?;
        self.left = self.left.checked_sub(1)?;
        let towers = train.towers.iter().flat_map(Towers::stages);
        self.is_given |= towers.count() > 0;
        let init = train
            .init
            .as_ref()
            .and_then(|init| self.pipeline.stage(init));
        match init.map(|stage| &stage.kind) {
            Some(Kind::Train(init)) => self.next = Some(init),
            Some(_) => self.is_given = true,
            None => {}
        }
        Some(train)
    }
}

/// The sorts of texts that reached a model, over its whole lineage.
#[derive(Debug, Default)]
struct Seen {
    web: bool,
    kept_web: bool,
    synthetic: bool,
    kept_synthetic: bool,
    human: bool,
    is_given: bool,
}

impl Seen {
    fn of(train: &Train, pipeline: &Pipeline) -> Self {
        let mut seen = Self::default();
        let mut lineage = Lineage::of(train, pipeline);
        for source in lineage.by_ref().flat_map(|train| &train.data) {
            seen.add(source, pipeline);
        }
        seen.is_given = lineage.is_given;
        seen
    }

    fn add(&mut self, source: &Source, pipeline: &Pipeline) {
        let chain = Chain::of(&source.from, pipeline);
        if chain.is_web {
            self.web |= source.web == Use::All;
            self.kept_web |= source.web == Use::Kept;
        } else {
            self.human = true;
        }
        if chain.has_synthetic {
            self.synthetic |= source.synthetic == Use::All;
            self.kept_synthetic |= source.synthetic == Use::Kept;
        }
    }

    fn texts(&self) -> Texts {
        match self {
            _ if self.kept_synthetic || (self.kept_web && self.synthetic) => Texts::Bootstrapped,
            _ if self.synthetic => Texts::CaptionerOnly,
            _ if self.kept_web => Texts::FilterOnly,
            _ if self.web => Texts::Web,
            _ if self.human && !self.is_given => Texts::Human,
            _ => Texts::Unknown,
        }
    }
}

/// The stages that made a dataset version, from the last one back to its base files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The stage that wrote the base files: a crawl or an import.
    pub base: StageName,
    /// Whether the texts of the base files are of the web.
    pub is_web: bool,
    /// Whether a stage of the chain adds synthetic texts.
    pub has_synthetic: bool,
}

impl Chain {
    /// The chain that ends at `stage`.
    pub fn of(stage: &StageName, pipeline: &Pipeline) -> Self {
        let mut chain = Self {
            base: stage.clone(),
            is_web: true,
            has_synthetic: false,
        };
        for _ in 0..pipeline.stages.len() {
            let Some(found) = pipeline.stage(&chain.base) else {
                break;
            };
            chain.base = match &found.kind {
                Kind::Filter(filter) => filter.from.clone(),
                Kind::Caption(caption) => {
                    chain.has_synthetic = true;
                    caption.from.clone()
                }
                Kind::Balance(balance) => balance.from.clone(),
                Kind::Curate(curate) => curate.from.clone(),
                Kind::Import(import) => {
                    chain.is_web = import.origin() != Origin::Human;
                    break;
                }
                _ => break,
            };
        }
        chain
    }
}

/// A model that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    /// Its name in the summary.
    pub name: &'a str,
    /// The texts that it was trained on.
    pub texts: Texts,
    /// Whether no other model of its family was trained on such texts.
    is_only: bool,
}

impl Measured<'_> {
    /// Its label: the title of its arm, or its name where that title says too little.
    pub fn label(&self) -> String {
        if self.is_only && self.texts != Texts::Unknown {
            self.texts.title().to_owned()
        } else {
            self.name.replace('_', " ")
        }
    }
}

/// The measured models of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'a> {
    /// The family; `None` for models from outside.
    pub family: Option<Family>,
    /// In the order of the page.
    pub models: Vec<Measured<'a>>,
}

impl Group<'_> {
    /// `CLIP`, `BLIP`.
    pub fn title(&self) -> &'static str {
        family_title(self.family)
    }

    /// The greatest figure among the models of an arm.
    pub fn best(
        &self,
        summary: &Summary,
        texts: Texts,
        figure: fn(&ModelFigures) -> Option<f64>,
    ) -> Option<f64> {
        let of_arm = self.models.iter().filter(|model| model.texts == texts);
        of_arm
            .filter_map(|model| figure(summary.model(model.name)?))
            .filter(|figure| figure.is_finite())
            .max_by(f64::total_cmp)
    }

    /// The mean R@1 of an arm, in percent.
    pub fn mean_at_1(&self, summary: &Summary, texts: Texts) -> Option<f64> {
        self.best(summary, texts, |model| Some(model.retrieval?.mean_at_1()))
    }

    /// Bootstrapped less `texts`, mean R@1 in points.
    pub fn gain_over(&self, summary: &Summary, texts: Texts) -> Option<f64> {
        Some(self.mean_at_1(summary, Texts::Bootstrapped)? - self.mean_at_1(summary, texts)?)
    }
}

/// Title of a family.
pub fn family_title(family: Option<Family>) -> &'static str {
    match family {
        Some(Family::Clip) => "CLIP",
        Some(Family::Blip) => "BLIP",
        None => "Other models",
    }
}

/// Mean of TR@1 and IR@1 of a model, by cosine, in percent.
pub fn mean_at_1(summary: &Summary, model: &str) -> Option<f64> {
    let retrieval = summary.model(model)?.retrieval?;
    Some(retrieval.mean_at_1()).filter(|mean| mean.is_finite())
}

/// The measured models by family: CLIP, then BLIP, then models from outside.
pub fn groups(summary: &Summary) -> Vec<Group<'_>> {
    let place = |name: &str| {
        let arm = summary.arm(name);
        (arm.family.is_none(), arm.family, arm.texts)
    };
    let mut names: Vec<&str> = summary.models.keys().map(String::as_str).collect();
    names.sort_by_key(|name| (place(name), *name));
    names
        .chunk_by(|left, right| summary.arm(left).family == summary.arm(right).family)
        .map(|names| group(summary, names))
        .collect()
}

fn group<'a>(summary: &Summary, names: &[&'a str]) -> Group<'a> {
    let texts = |name: &str| summary.arm(name).texts;
    let model = |name: &&'a str| Measured {
        name,
        texts: texts(name),
        is_only: names
            .iter()
            .filter(|other| texts(other) == texts(name))
            .count()
            == 1,
    };
    Group {
        family: summary.arm(names[0]).family,
        models: names.iter().map(model).collect(),
    }
}

#[cfg(test)]
mod tests;
