//! A run as the store holds it.

use std::collections::BTreeMap;

use capstan_dataset::{Store, commits, runs, versions};
use capstan_plan::Pipeline;
use capstan_plan::commit::{Commit, Part};
use capstan_plan::id::{DatasetName, RunId, StageName};
use capstan_plan::stage::Kind;
use capstan_report::arm::Chain;

use crate::error::{Exit, ExpectedError, OrExit};

/// A run as the store holds it: finished, under way or failed.
pub struct Recorded {
    /// Its id.
    pub run: RunId,
    /// Its pipeline.
    pub pipeline: Pipeline,
    /// Seed of every draw.
    pub seed: u64,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_unix_ms: i64,
    /// When it ended last, in milliseconds since 1970; `None` while it goes on.
    pub ended_unix_ms: Option<i64>,
    commits: BTreeMap<StageName, Vec<Commit>>,
}

impl Recorded {
    /// Reads a run.
    ///
    /// # Errors
    /// Usage for a run that the store does not hold; foreign input for a pipeline that this
    /// version cannot read; unavailable where the store cannot be read.
    pub async fn read(store: &Store, run: &RunId) -> Result<Self, ExpectedError> {
        let record = runs::read(store, run).await.or_exit(Exit::Unavailable)?;
        let Some(record) = record else {
            return Err(unknown(store, run).await?);
        };
        let pipeline: Pipeline = serde_json::from_value(record.pipeline).map_err(|error| {
            let line = format!("run {run}: this version cannot read its pipeline: {error}");
            ExpectedError::new(Exit::ForeignInput, line)
        })?;
        let standing = runs::standing(store, run)
            .await
            .or_exit(Exit::Unavailable)?;
        let ended = standing.filter(|standing| standing.state != runs::RunState::Running);
        let all = commits::of_run(store, run)
            .await
            .or_exit(Exit::Unavailable)?;
        let mut commits: BTreeMap<StageName, Vec<Commit>> = BTreeMap::new();
        for commit in all {
            commits
                .entry(commit.stage.clone())
                .or_default()
                .push(commit);
        }
        Ok(Self {
            run: run.clone(),
            pipeline,
            seed: record.seed,
            submitted_unix_ms: record.created_at_ms,
            ended_unix_ms: ended.map(|standing| standing.at_ms),
            commits,
        })
    }

    /// Commits of a stage, by shard.
    pub fn commits(&self, stage: &StageName) -> &[Commit] {
        self.commits
            .get(stage)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The stage whose dataset the page shows: the last filter that has published a version, else
    /// the last captioner, balance, curation, and at last the last crawl or import. Imports whose
    /// texts some stage trains on come before those that only evaluations read.
    ///
    /// # Errors
    /// Unavailable, where the store cannot be read.
    pub async fn shown(
        &self,
        store: &Store,
    ) -> Result<Option<(StageName, Vec<Part>)>, ExpectedError> {
        let trained_on = self.trained_on();
        let order = self.pipeline.order();
        let mut stages: Vec<_> = order
            .iter()
            .filter_map(|name| self.pipeline.stage(name))
            .filter_map(|stage| {
                let is_trained_on = trained_on.contains(&stage.name);
                Some((refinement(&stage.kind)?, is_trained_on, &stage.name))
            })
            .collect();
        // Stable: of equals the last one of the pipeline comes last.
        stages.sort_by_key(|(refinement, is_trained_on, _)| (*refinement, *is_trained_on));
        for (_, _, stage) in stages.into_iter().rev() {
            let Some(dataset) = self.dataset(stage) else {
                continue;
            };
            let version = versions::published(store, dataset, &self.run, stage).await;
            if let Some(version) = version.or_exit(Exit::Unavailable)? {
                let parts = versions::parts(store, &version.reference()).await;
                return Ok(Some((stage.clone(), parts.or_exit(Exit::Unavailable)?)));
            }
        }
        Ok(None)
    }

    /// Stages that wrote the base files of what some stage trains on.
    pub fn trained_on(&self) -> Vec<StageName> {
        let stages = self.pipeline.stages.iter();
        let trainings = stages.filter_map(|stage| match &stage.kind {
            Kind::Train(train) => Some(train),
            _ => None,
        });
        let sources = trainings.flat_map(|train| &train.data);
        let mut bases: Vec<StageName> = sources
            .map(|source| Chain::of(&source.from, &self.pipeline).base)
            .collect();
        bases.sort();
        bases.dedup();
        bases
    }

    /// The dataset that a stage adds a version to.
    fn dataset(&self, stage: &StageName) -> Option<&DatasetName> {
        let base = Chain::of(stage, &self.pipeline).base;
        match &self.pipeline.stage(&base)?.kind {
            Kind::Crawl(crawl) => Some(&crawl.dataset),
            Kind::Import(import) => Some(&import.dataset),
            _ => None,
        }
    }
}

/// How far a dataset of this kind of stage is refined; `None` for a kind that gives none.
fn refinement(kind: &Kind) -> Option<u8> {
    match kind {
        Kind::Crawl(_) | Kind::Import(_) => Some(0),
        Kind::Curate(_) => Some(1),
        Kind::Balance(_) => Some(2),
        Kind::Caption(_) => Some(3),
        Kind::Filter(_) => Some(4),
        _ => None,
    }
}

/// The error for a run that is not there; it names some that are.
async fn unknown(store: &Store, run: &RunId) -> Result<ExpectedError, ExpectedError> {
    const NAMED: usize = 5;
    let runs = store.folders("runs").await.or_exit(Exit::Unavailable)?;
    let named = runs.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let known = match runs.len() {
        0 => "it holds no runs".to_owned(),
        1..=NAMED => format!("it holds {}", named.join(", ")),
        more => format!("it holds {more} runs: {} ...", named.join(", ")),
    };
    let line = format!("store {}: no run `{run}`; {known}", store.url());
    Ok(ExpectedError::new(Exit::Usage, line))
}
