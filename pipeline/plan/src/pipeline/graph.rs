//! Facts between stages that are known without running anything.

use std::collections::{BTreeMap, BTreeSet};

use super::{Pipeline, cycle};
use crate::check::{Check, Problem, is_name};
use crate::id::{DatasetName, StageName};
use crate::stage::{Family, Input, Kind, Objective, Output, Train, Wants};

/// The stages of a pipeline by name, for questions about what a stage is made of.
#[derive(Debug)]
pub struct Graph<'a> {
    kinds: BTreeMap<&'a StageName, &'a Kind>,
}

impl<'a> Graph<'a> {
    fn new(pipeline: &'a Pipeline) -> Self {
        let stages = pipeline.stages.iter();
        Self {
            kinds: stages.map(|stage| (&stage.name, &stage.kind)).collect(),
        }
    }

    /// The kind of a stage.
    pub fn kind(&self, stage: &StageName) -> Option<&'a Kind> {
        self.kinds.get(stage).copied()
    }

    /// The stages that a dataset comes from: the stage itself, then the stage that it adds to, and
    /// so on to the one that made the dataset.
    pub fn dataset_stages(&self, stage: &StageName) -> Vec<&'a Kind> {
        let mut kinds = Vec::new();
        let mut at = self.kind(stage);
        while let Some(kind) = at
            && kinds.len() <= self.kinds.len()
        {
            kinds.push(kind);
            at = match kind.settings().output() {
                Output::DatasetOf(from) => self.kind(from),
                _ => None,
            };
        }
        kinds
    }

    /// The trainings that a model comes from, the last one first; `None` where it comes from a
    /// model that was not trained here, of which nothing is known.
    pub fn trainings(&self, model: &StageName) -> Option<Vec<&'a Train>> {
        let mut trainings = Vec::new();
        let mut at = self.kind(model)?;
        while trainings.len() <= self.kinds.len() {
            let Kind::Train(train) = at else { return None };
            trainings.push(train);
            match &train.init {
                None => return Some(trainings),
                Some(init) => at = self.kind(init)?,
            }
        }
        None
    }

    /// The family of a model, where it is known.
    pub fn family(&self, model: &StageName) -> Option<Family> {
        let trainings = self.trainings(model)?;
        let first = trainings.last()?;
        Some(first.architecture.as_ref()?.family)
    }

    /// The objectives that a model was trained with at any time, where they are known.
    pub fn objectives(&self, model: &StageName) -> Option<BTreeSet<Objective>> {
        let trainings = self.trainings(model)?;
        Some(
            trainings
                .iter()
                .flat_map(|train| train.objectives.iter().copied())
                .collect(),
        )
    }

    /// Whether a model was trained with an objective at any time; true where it is not known.
    pub fn may_be_trained(&self, model: &StageName, objective: Objective) -> bool {
        let objectives = self.objectives(model);
        objectives.is_none_or(|known| known.contains(&objective))
    }

    /// States that the model that `key` names was trained with a BLIP objective.
    pub fn check_trained(
        &self,
        check: &mut Check,
        key: &str,
        model: &StageName,
        objective: Objective,
    ) {
        let holds = self.may_be_trained(model, objective);
        let text = format!(
            "a BLIP model that was trained with objective {}",
            objective.as_str()
        );
        check.rule(key, format!("{:?}", model.as_str()), holds, &text);
    }
}

/// Everything that is wrong with how the stages fit together.
///
/// - `unread`: names of stages whose settings could not be read.
pub(super) fn problems(pipeline: &Pipeline, unread: &BTreeSet<String>) -> Vec<Problem> {
    let mut problems = names(pipeline, unread);
    let graph = Graph::new(pipeline);
    for stage in &pipeline.stages {
        let own = |problem: Problem| problem.of_stage(&stage.name);
        let before = problems.len();
        for input in stage.kind.settings().inputs() {
            if unread.contains(input.stage.as_str()) {
                continue;
            }
            problems.extend(misfit(&input, &graph).map(own));
        }
        if problems.len() == before {
            let mut check = Check::default();
            stage.kind.settings().check_graph(&graph, &mut check);
            problems.extend(check.into_problems().into_iter().map(own));
        }
    }
    // A cycle would only repeat that a stage reads what it cannot.
    if problems.is_empty()
        && unread.is_empty()
        && let Some(cycle) = cycle::find(pipeline)
    {
        let stages = cycle::describe(&cycle);
        problems.push(Problem::new(format!(
            "stages wait for one another: {stages}"
        )));
    }
    problems
}

/// Names that are not plain or not unique.
fn names(pipeline: &Pipeline, unread: &BTreeSet<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut stages: BTreeSet<&str> = unread.iter().map(String::as_str).collect();
    let mut datasets: BTreeMap<&DatasetName, &StageName> = BTreeMap::new();
    for stage in &pipeline.stages {
        let name = stage.name.as_str();
        let own = |problem: Problem| problem.of_stage(name);
        if !is_name(name) || name.len() > 100 {
            let reason = "must be 1 to 100 lower-case letters, digits, `-` and `_`";
            problems.push(own(Problem::new(reason)
                .at("name")
                .with_value(format!("{name:?}"))));
        }
        if !stages.insert(name) {
            problems.push(own(Problem::new("two stages have this name").at("name")));
        }
        if let Some(device) = &stage.device {
            let problem = |reason: &str| {
                let problem = Problem::new(reason).at("device");
                own(problem.with_value(format!("{:?}", device.as_str())))
            };
            if !stage.kind.settings().computes() {
                problems.push(problem(
                    "must be left out: this kind of stage computes with no model",
                ));
            } else if !is_name(device.as_str()) || device.as_str().len() > 100 {
                problems.push(problem(
                    "must be a kind of device such as cpu-avx512 or cuda-sm90",
                ));
            }
        }
        if let Output::NewDataset(dataset) = stage.kind.settings().output()
            && let Some(first) = datasets.insert(dataset, &stage.name)
        {
            let reason = format!("stage `{first}` writes this dataset already; give each its own");
            let problem = Problem::new(reason).at("dataset");
            problems.push(own(problem.with_value(format!("{:?}", dataset.as_str()))));
        }
    }
    problems
}

/// Why an input is not what the stage reads.
fn misfit(input: &Input, graph: &Graph<'_>) -> Option<Problem> {
    let Input { key, stage, wants } = input;
    let problem = |reason: String| {
        let problem = Problem::new(reason).at(key);
        problem.with_value(format!("{:?}", stage.as_str()))
    };
    let Some(kind) = graph.kind(stage) else {
        return Some(problem("no stage has this name".to_owned()));
    };
    let fits = matches!(
        (wants, kind.settings().output()),
        (Wants::Dataset, Output::NewDataset(_) | Output::DatasetOf(_))
            | (Wants::Model | Wants::Vocabulary, Output::Model)
            | (Wants::Vocabulary, Output::Vocabulary)
    );
    let (wanted, found) = (wants.name(), kind.name());
    let reason = format!("must be a stage that gives a {wanted}; this is one of kind `{found}`");
    (!fits).then(|| problem(reason))
}
