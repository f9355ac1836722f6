//! The pipeline file: reading, checking, ordering.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cycle;
use crate::id::{Digest, RunId, StageName};
use crate::stage::{Kind, Stage};

/// A pipeline: named stages that read one another's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Name of the pipeline; run ids begin with it.
    pub name: String,
    /// Seed of every draw; the command line may give another.
    pub seed: u64,
    /// Quarantined shards that a stage may have before the run fails, where it does not say
    /// itself.
    pub max_quarantined: u64,
    /// Stages in the order of the file.
    pub stages: Vec<Stage>,
}

/// Why a pipeline file cannot be used. One line each, naming stage and key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not TOML.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, on one line.
        reason: String,
    },
    /// A key is unknown, missing or of the wrong type.
    #[error("{file}: stage `{stage}`: {reason}")]
    Stage {
        /// The file.
        file: String,
        /// The stage by name or position.
        stage: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stages do not fit together.
    #[error("{file}: {reason}")]
    Graph {
        /// The file.
        file: String,
        /// What does not fit.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    max_quarantined: u64,
    #[serde(default)]
    stage: Vec<toml::Table>,
}

impl Pipeline {
    /// Reads and checks a pipeline file.
    ///
    /// # Errors
    /// [`Error`], each on one line with the file, the stage and what to mend.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, Error> {
        let document: Document = toml::from_str(text).map_err(|error| Error::Syntax {
            file: file.to_owned(),
            reason: one_line(&error.to_string()),
        })?;
        let mut stages = Vec::with_capacity(document.stage.len());
        for (position, table) in document.stage.into_iter().enumerate() {
            stages.push(read_stage(table, position, file)?);
        }
        let pipeline = Self {
            name: document.name,
            seed: document.seed,
            max_quarantined: document.max_quarantined,
            stages,
        };
        pipeline.check(file)?;
        Ok(pipeline)
    }

    /// The stage of this name.
    pub fn stage(&self, name: &StageName) -> Option<&Stage> {
        self.stages.iter().find(|stage| &stage.name == name)
    }

    /// Quarantined shards that this stage may have before the run fails.
    pub fn max_quarantined_of(&self, stage: &Stage) -> u64 {
        stage.max_quarantined.unwrap_or(self.max_quarantined)
    }

    /// Stage names in an order in which every stage comes after its inputs; file order
    /// among those that could go at once.
    pub fn order(&self) -> Vec<StageName> {
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        while order.len() < self.stages.len() {
            let next = self.stages.iter().find(|stage| {
                !done.contains(&stage.name)
                    && stage.kind.inputs().iter().all(|input| done.contains(input))
            });
            let Some(stage) = next else { break };
            done.insert(stage.name.clone());
            order.push(stage.name.clone());
        }
        order
    }

    /// The id of a run of this pipeline that was given none: its name and a digest of its
    /// settings, the seed among them.
    pub fn run_id(&self) -> RunId {
        let value = serde_json::to_value(self).expect("settings are plain data");
        let digest = Digest::of(value.to_string().as_bytes()).short();
        let name: String = self.name.chars().take(80).collect();
        RunId(format!("{}-{}", name.replace('_', "-"), &digest[..8]))
    }

    fn check(&self, file: &str) -> Result<(), Error> {
        let graph = |reason: String| Error::Graph {
            file: file.to_owned(),
            reason,
        };
        if self.name.is_empty() || !is_name(&self.name) {
            let name = &self.name;
            return Err(graph(format!(
                "`name = \"{name}\"` must be of lower-case letters, digits, - and _"
            )));
        }
        if self.stages.is_empty() {
            return Err(graph(
                "no [[stage]]: a pipeline needs at least one".to_owned(),
            ));
        }
        let mut kinds: BTreeMap<&StageName, &Kind> = BTreeMap::new();
        for stage in &self.stages {
            if !is_name(stage.name.as_str()) {
                return Err(graph(format!(
                    "stage name `{}` must be of lower-case letters, digits, - and _",
                    stage.name
                )));
            }
            if kinds.insert(&stage.name, &stage.kind).is_some() {
                return Err(graph(format!("two stages are called `{}`", stage.name)));
            }
        }
        for stage in &self.stages {
            for input in stage.kind.inputs() {
                if !kinds.contains_key(&input) {
                    return Err(graph(format!(
                        "stage `{}` reads `{input}`, which no stage is called",
                        stage.name
                    )));
                }
            }
            self.check_inputs(stage, &kinds)
                .map_err(|reason| Error::Stage {
                    file: file.to_owned(),
                    stage: stage.name.to_string(),
                    reason,
                })?;
        }
        if let Some(circle) = cycle::find(self) {
            let told = cycle::told(&circle);
            return Err(graph(format!("stages wait for one another: {told}")));
        }
        Ok(())
    }

    /// Checks what a stage reads and the settings that serde cannot check.
    fn check_inputs(
        &self,
        stage: &Stage,
        kinds: &BTreeMap<&StageName, &Kind>,
    ) -> Result<(), String> {
        let dataset = |name: &StageName| match gives(kinds[name]) {
            Gives::Dataset => Ok(()),
            _ => Err(format!(
                "`{name}` is read as a dataset, but is a {} stage",
                kinds[name].name()
            )),
        };
        let model = |name: &StageName| match gives(kinds[name]) {
            Gives::Model => Ok(()),
            _ => Err(format!(
                "`{name}` is read as a model, but is a {} stage",
                kinds[name].name()
            )),
        };
        match &stage.kind {
            Kind::Crawl(crawl) if crawl.seeds.is_empty() => Err("`seeds` is empty".to_owned()),
            Kind::Crawl(_) => Ok(()),
            Kind::Import(import) => import.check(),
            Kind::Model(model) => model.check(),
            Kind::Curate(s) if s.queries.is_empty() => Err("`queries` is empty".to_owned()),
            Kind::Curate(s) => dataset(&s.from),
            Kind::Balance(s) => dataset(&s.from),
            Kind::Tokenizer(s) if s.data.is_empty() => Err("`data` is empty".to_owned()),
            Kind::Tokenizer(s) => s.data.iter().try_for_each(|source| dataset(&source.from)),
            Kind::Train(s) => {
                if s.data.is_empty() {
                    return Err("`data` is empty".to_owned());
                }
                if s.architecture.is_none() == s.init.is_none() {
                    return Err("give either `architecture` or `init`".to_owned());
                }
                if s.objectives.is_empty() {
                    return Err("`objectives` is empty: any of itc, itm, lm".to_owned());
                }
                if s.world_size == 0 || s.global_batch % s.world_size != 0 {
                    return Err(format!(
                        "`global_batch` {} is no multiple of `world_size` {}",
                        s.global_batch, s.world_size
                    ));
                }
                s.data.iter().try_for_each(|source| dataset(&source.from))?;
                match kinds[&s.tokenizer] {
                    // A given model has its vocabulary beside it.
                    Kind::Tokenizer(_) | Kind::Model(_) => Ok(()),
                    other => Err(format!(
                        "`tokenizer = \"{}\"` is a {} stage",
                        s.tokenizer,
                        other.name()
                    )),
                }?;
                s.init.iter().try_for_each(model)
            }
            Kind::Caption(s) => dataset(&s.from).and_then(|()| model(&s.model)),
            Kind::Filter(s) => dataset(&s.from).and_then(|()| model(&s.model)),
            Kind::Evaluate(s) => {
                model(&s.model)?;
                s.captioner.iter().try_for_each(model)?;
                let sets = [
                    s.retrieval.as_ref().map(|set| &set.from),
                    s.captioning.as_ref().map(|set| &set.from),
                    s.zero_shot.as_ref().map(|set| &set.from),
                ];
                sets.into_iter().flatten().try_for_each(dataset)
            }
        }
    }
}

impl Serialize for Pipeline {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct StageOut<'a> {
            name: &'a StageName,
            // Left out where not given: ids of runs are digests of this text.
            #[serde(skip_serializing_if = "Option::is_none")]
            max_quarantined: Option<u64>,
            #[serde(flatten)]
            kind: &'a Kind,
        }
        #[derive(Serialize)]
        struct Out<'a> {
            name: &'a str,
            seed: u64,
            max_quarantined: u64,
            stage: Vec<StageOut<'a>>,
        }
        let stage = self
            .stages
            .iter()
            .map(|s| StageOut {
                name: &s.name,
                max_quarantined: s.max_quarantined,
                kind: &s.kind,
            })
            .collect();
        Out {
            name: &self.name,
            seed: self.seed,
            max_quarantined: self.max_quarantined,
            stage,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Pipeline {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        let stages = document
            .stage
            .into_iter()
            .enumerate()
            .map(|(position, table)| read_stage(table, position, "pipeline"))
            .collect::<Result<Vec<_>, _>>()
            .map_err(serde::de::Error::custom)?;
        let pipeline = Self {
            name: document.name,
            seed: document.seed,
            max_quarantined: document.max_quarantined,
            stages,
        };
        pipeline
            .check("pipeline")
            .map_err(serde::de::Error::custom)?;
        Ok(pipeline)
    }
}

/// What a stage offers to later ones.
enum Gives {
    Dataset,
    Model,
    Other,
}

fn gives(kind: &Kind) -> Gives {
    match kind {
        Kind::Crawl(_)
        | Kind::Import(_)
        | Kind::Curate(_)
        | Kind::Balance(_)
        | Kind::Caption(_)
        | Kind::Filter(_) => Gives::Dataset,
        Kind::Train(_) | Kind::Model(_) => Gives::Model,
        Kind::Tokenizer(_) | Kind::Evaluate(_) => Gives::Other,
    }
}

fn read_stage(mut table: toml::Table, position: usize, file: &str) -> Result<Stage, Error> {
    let name = match table.remove("name") {
        Some(toml::Value::String(name)) => name,
        _ => {
            return Err(Error::Stage {
                file: file.to_owned(),
                stage: format!("#{}", position + 1),
                reason: "needs `name = \"...\"`".to_owned(),
            });
        }
    };
    let fail = |reason: String| Error::Stage {
        file: file.to_owned(),
        stage: name.clone(),
        reason,
    };
    let kind = match table.remove("kind") {
        Some(toml::Value::String(kind)) => kind,
        _ => return Err(fail("needs `kind = \"...\"`".to_owned())),
    };
    let max_quarantined = match table.remove("max_quarantined") {
        None => None,
        Some(toml::Value::Integer(number)) if number >= 0 => Some(number.unsigned_abs()),
        Some(other) => {
            let reason = format!("`max_quarantined = {other}` is no number of shards");
            return Err(fail(reason));
        }
    };
    fn settings<T: serde::de::DeserializeOwned>(table: toml::Table) -> Result<T, String> {
        toml::Value::Table(table)
            .try_into()
            .map_err(|e: toml::de::Error| one_line(&e.to_string()))
    }
    let kind = match kind.as_str() {
        "crawl" => settings(table).map(Kind::Crawl),
        "import" => settings(table).map(Kind::Import),
        "model" => settings(table).map(Kind::Model),
        "curate" => settings(table).map(Kind::Curate),
        "balance" => settings(table).map(Kind::Balance),
        "tokenizer" => settings(table).map(Kind::Tokenizer),
        "train" => settings(table).map(Kind::Train),
        "caption" => settings(table).map(Kind::Caption),
        "filter" => settings(table).map(Kind::Filter),
        "evaluate" => settings(table).map(Kind::Evaluate),
        other => Err(format!(
            "unknown kind `{other}`: one of crawl, import, model, curate, balance, tokenizer, \
             train, caption, filter, evaluate"
        )),
    };
    Ok(Stage {
        name: StageName(name.clone()),
        max_quarantined,
        kind: kind.map_err(fail)?,
    })
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
