//! The pipeline file: named stages, their order, and the id of a run of them.
//!
//! ```text
//! text ─► read (keys, types, lines) ─► named tables put in ─► settings
//!                                      check (every value) ─► graph (facts between stages)
//! ```
//!
//! Every step collects all of its problems; a file is used only if there is none.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Problem};
use crate::id::{DeviceKind, Digest, RunId, StageName};
use crate::stage::{Kind, Stage};

mod cycle;
mod graph;
mod named;
mod read;
#[cfg(test)]
mod tests;

pub use graph::Graph;

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

/// Why a pipeline cannot be used: everything that is wrong with it, a line each, as
/// ``demo.toml:12: stage `caption`: `decoding.choose.top_p = 9.0`: must be over 0 and at most 1``.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, as the user named it.
    pub file: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}: {problem}", self.file)?,
                None => write!(f, "{}: {problem}", self.file)?,
            }
        }
        Ok(())
    }
}

impl Pipeline {
    /// Reads and checks a pipeline file.
    ///
    /// # Errors
    /// [`Error`] with every problem of the file.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, Error> {
        read::read(text).map_err(|problems| Error {
            file: file.to_owned(),
            problems,
        })
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
    /// among those that could run at once.
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
        RunId::from(format!("{}-{}", name.replace('_', "-"), &digest[..8]))
    }

    /// Everything that is wrong with the values and with how the stages fit together.
    ///
    /// - `unread`: names of stages whose settings could not be read; a stage that reads one of
    ///   them is not blamed for it.
    fn problems(&self, unread: &BTreeSet<String>) -> Vec<Problem> {
        let mut check = Check::default();
        check.name("name", &self.name);
        let mut problems = check.into_problems();
        if self.stages.is_empty() && unread.is_empty() {
            problems.push(Problem::new("no [[stage]]: a pipeline needs at least one"));
        }
        problems.extend(graph::problems(self, unread));
        problems
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
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<&'a DeviceKind>,
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
                device: s.device.as_ref(),
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
        use serde::de::Error as _;

        /// A stage without the keys that are the same for all kinds.
        #[derive(Deserialize)]
        struct StageIn {
            name: StageName,
            #[serde(default)]
            max_quarantined: Option<u64>,
            #[serde(default)]
            device: Option<DeviceKind>,
            #[serde(flatten)]
            kind: serde_json::Map<String, serde_json::Value>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct In {
            name: String,
            #[serde(default)]
            seed: u64,
            #[serde(default)]
            max_quarantined: u64,
            #[serde(default)]
            stage: Vec<StageIn>,
        }
        let read = |stage: StageIn| {
            let kind = serde_json::from_value(serde_json::Value::Object(stage.kind));
            let kind = kind.map_err(|error| {
                let problem = Problem::new(error.to_string()).of_stage(&stage.name);
                D::Error::custom(problem)
            })?;
            Ok(Stage {
                name: stage.name,
                max_quarantined: stage.max_quarantined,
                device: stage.device,
                kind,
            })
        };
        let document = In::deserialize(deserializer)?;
        let stages = document.stage.into_iter().map(read);
        let pipeline = Self {
            name: document.name,
            seed: document.seed,
            max_quarantined: document.max_quarantined,
            stages: stages.collect::<Result<_, _>>()?,
        };
        let problems = pipeline.problems(&BTreeSet::new());
        if problems.is_empty() {
            return Ok(pipeline);
        }
        let file = "pipeline".to_owned();
        Err(D::Error::custom(Error { file, problems }))
    }
}
