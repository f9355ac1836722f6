//! From commits, versions and the judge's table to the summary.

use std::collections::BTreeMap;

use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_dataset::{Store, commits};
use capstan_demoweb::{Judgement, Site};
use capstan_plan::commit::{Commit, FileKind, Part};
use capstan_plan::id::{ModelDigest, StageName};
use capstan_plan::results::Training;
use capstan_plan::row::{Origin, Reject};
use capstan_plan::stage::Kind;
use capstan_report::summary::{Filter, Judged, Pairs, StageFigures, Summary};

use super::inputs::Inputs;
use super::run::Ended;
use crate::error::{Exit, ExpectedError, OrExit};

/// The figures of a run, and what the page needs beside them.
pub struct Gathered {
    pub summary: Summary,
    pub trainings: Vec<(StageName, Training)>,
    pub models: BTreeMap<StageName, ModelDigest>,
    pub parts: Vec<Part>,
}

/// Gathers everything that a finished run left behind.
///
/// # Errors
/// Run failed, where the store cannot be read.
pub async fn gather(
    store: &Store,
    inputs: &Inputs,
    ended: &Ended,
    site: &Site,
    seed: u64,
) -> Result<Gathered, ExpectedError> {
    let commits = commits::of_run(store, &ended.run)
        .await
        .or_exit(Exit::RunFailed)?;
    let by_stage = group(&commits);
    let parts = ended.filtered_parts(store, &inputs.pipeline).await?;
    let mut summary = Summary {
        seed,
        stages: stage_figures(inputs, ended, &by_stage),
        remaining_shown_at_60s: ended.remaining_shown_at_60s,
        remaining_taken_at_60s: ended
            .remaining_shown_at_60s
            .map(|_| (ended.wall_seconds - 60.0).max(0.0)),
        wall_seconds: ended.wall_seconds,
        ..Summary::default()
    };
    crawled(store, inputs, &by_stage, &mut summary.pairs).await?;
    judged(store, &parts, site, &mut summary).await?;
    evaluations(inputs, &by_stage, &mut summary);
    let trainings = trainings(inputs, &by_stage);
    let models = trained_models(inputs, &by_stage);
    Ok(Gathered {
        summary,
        trainings,
        models,
        parts,
    })
}

type ByStage<'a> = BTreeMap<&'a StageName, Vec<&'a Commit>>;

fn group(commits: &[Commit]) -> ByStage<'_> {
    let mut by_stage = ByStage::new();
    for commit in commits {
        by_stage.entry(&commit.stage).or_default().push(commit);
    }
    by_stage
}

/// Times by stage. A training's wall time is the work's own, without waiting for its turn.
fn stage_figures(inputs: &Inputs, ended: &Ended, by_stage: &ByStage<'_>) -> Vec<StageFigures> {
    let figures = |name: &StageName| {
        let commits = by_stage.get(name).map(Vec::as_slice).unwrap_or_default();
        let training = commits
            .iter()
            .find_map(|commit| commit.outputs.training.as_ref());
        let wall = match commits {
            [only] => only.wall_seconds,
            _ => ended.stage_seconds.get(name).copied().unwrap_or_default(),
        };
        StageFigures {
            name: name.to_string(),
            wall_seconds: wall,
            cpu_seconds: commits.iter().map(|commit| commit.cpu_seconds).sum(),
            world_size: training.map(|training| training.world_size),
            bytes_reduced: training.map(|training| training.bytes_reduced),
        }
    };
    inputs.pipeline.order().iter().map(figures).collect()
}

/// Found, fetched, rejected, and texts written by annotators.
async fn crawled(
    store: &Store,
    inputs: &Inputs,
    by_stage: &ByStage<'_>,
    pairs: &mut Pairs,
) -> Result<(), ExpectedError> {
    let trained_on: Vec<&StageName> = inputs
        .pipeline
        .stages
        .iter()
        .filter_map(|stage| match &stage.kind {
            Kind::Train(train) => Some(train.data.iter().map(|source| &source.from)),
            _ => None,
        })
        .flatten()
        .collect();
    for stage in &inputs.pipeline.stages {
        let commits = by_stage
            .get(&stage.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let count = |name: &str| -> u64 {
            commits
                .iter()
                .filter_map(|commit| commit.outputs.counts.get(name))
                .sum()
        };
        match &stage.kind {
            Kind::Crawl(_) => {
                pairs.fetched += count("fetched");
                let files = commits.iter().flat_map(|commit| &commit.outputs.files);
                for file in files.filter(|file| file.kind == FileKind::Rejects) {
                    let rejects: Vec<Reject> =
                        files::read(store, file).await.or_exit(Exit::RunFailed)?;
                    for reject in rejects.iter().filter(|reject| reject.is_image) {
                        *pairs
                            .rejected
                            .entry(reject.code.as_str().to_owned())
                            .or_default() += 1;
                    }
                }
            }
            Kind::Import(_) if trained_on.contains(&&stage.name) => pairs.human += count("texts"),
            _ => {}
        }
    }
    pairs.found = pairs.fetched + pairs.rejected.values().sum::<u64>();
    Ok(())
}

/// What became of every text, and what the judge says of it.
async fn judged(
    store: &Store,
    parts: &[Part],
    site: &Site,
    summary: &mut Summary,
) -> Result<(), ExpectedError> {
    let mut tally = Tally::default();
    for part in parts {
        let rows = View::read(store, part, Pixels::Skip)
            .await
            .or_exit(Exit::RunFailed)?;
        for row in &rows {
            tally.row(row, site, &mut summary.pairs);
        }
    }
    summary.filter = Filter {
        web: tally.web.figures(),
        synthetic: tally.synthetic.figures(),
    };
    Ok(())
}

#[derive(Default)]
struct Tally {
    web: Judged,
    synthetic: Judged,
}

impl Tally {
    fn row(&mut self, row: &ViewRow, site: &Site, pairs: &mut Pairs) {
        if !row.keep {
            let reason = row.reason.clone().unwrap_or_else(|| "unknown".to_owned());
            *pairs.dropped.entry(reason).or_default() += 1;
            return;
        }
        pairs.curated += 1;
        let url = &row.pair.image_url;
        let kept = |text: &capstan_plan::row::Text| {
            row.verdict(&text.text_id)
                .is_some_and(|verdict| verdict.kept)
        };
        for text in row.curated_texts().filter(|text| text.origin.is_web()) {
            pairs.curated_texts += 1;
            let kind = site.kind(url, &text.text);
            let kind = kind
                .map_or("unknown", capstan_demoweb::TextKind::as_str)
                .to_owned();
            *pairs.curated_texts_by_kind.entry(kind).or_default() += 1;
            let kept = kept(text);
            *(if kept {
                &mut pairs.kept_web
            } else {
                &mut pairs.dropped_web
            }) += 1;
            add(&mut self.web, site.judgement(url, &text.text), kept);
        }
        for text in row
            .synthetic
            .iter()
            .filter(|text| text.origin == Origin::Synthetic)
        {
            pairs.synthetic += 1;
            let kept = kept(text);
            *(if kept {
                &mut pairs.kept_synthetic
            } else {
                &mut pairs.dropped_synthetic
            }) += 1;
            add(&mut self.synthetic, site.judgement(url, &text.text), kept);
        }
    }
}

fn add(judged: &mut Judged, judgement: Option<Judgement>, kept: bool) {
    let counts = match judgement {
        Some(Judgement::Good) => &mut judged.good,
        Some(Judgement::Vague) => &mut judged.vague,
        // A picture that the demo web does not know has no true texts.
        Some(Judgement::Bad) | None => &mut judged.bad,
    };
    counts[usize::from(!kept)] += 1;
}

/// Figures by model; blind ones of the bootstrapped models.
fn evaluations(inputs: &Inputs, by_stage: &ByStage<'_>, summary: &mut Summary) {
    for stage in &inputs.pipeline.stages {
        let Kind::Evaluate(evaluate) = &stage.kind else {
            continue;
        };
        let commits = by_stage
            .get(&stage.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let Some(figures) = commits.iter().find_map(|c| c.outputs.evaluation.as_ref()) else {
            continue;
        };
        let model = evaluate.model.to_string();
        if let Some(blind) = figures
            .blind
            .clone()
            .filter(|_| model.ends_with("_bootstrapped"))
        {
            summary.blind.insert(model.clone(), blind);
        }
        summary.models.insert(model, figures.sighted.clone());
    }
}

fn trainings(inputs: &Inputs, by_stage: &ByStage<'_>) -> Vec<(StageName, Training)> {
    let of_stage = |name: &StageName| {
        let commits = by_stage.get(name)?;
        let training = commits
            .iter()
            .find_map(|commit| commit.outputs.training.clone())?;
        Some((name.clone(), training))
    };
    inputs
        .pipeline
        .stages
        .iter()
        .filter_map(|stage| of_stage(&stage.name))
        .collect()
}

fn trained_models(inputs: &Inputs, by_stage: &ByStage<'_>) -> BTreeMap<StageName, ModelDigest> {
    let trains = inputs
        .pipeline
        .stages
        .iter()
        .filter(|s| matches!(s.kind, Kind::Train(_)));
    trains
        .filter_map(|stage| {
            let model = by_stage
                .get(&stage.name)?
                .iter()
                .find_map(|c| c.outputs.model)?;
            Some((stage.name.clone(), model))
        })
        .collect()
}
