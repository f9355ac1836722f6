//! From commits and versions to the summary.

use std::collections::BTreeMap;

use capstan_dataset::Store;
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_demoweb::{Judgement, Site, TextKind};
use capstan_plan::commit::{FileKind, Outputs, Part};
use capstan_plan::id::{ModelDigest, StageName};
use capstan_plan::results::{Evaluation, Training};
use capstan_plan::row::{Origin, Reject, Text};
use capstan_plan::stage::{Kind, Stage};
use capstan_report::arm::{Chain, Texts, arms};
use capstan_report::summary::{BestStep, Filter, Judged, Pairs, StageFigures, Summary};

use super::recorded::Recorded;
use crate::error::{Exit, ExpectedError, OrExit};

/// The figures of a run, and what the page needs beside them.
pub struct Gathered {
    pub summary: Summary,
    pub trainings: Vec<(StageName, Training)>,
    pub models: BTreeMap<StageName, ModelDigest>,
    pub parts: Vec<Part>,
}

/// What a watcher of the run has measured, and no store records.
pub struct Watched {
    /// Seconds that the run took.
    pub wall_seconds: f64,
    /// The remaining time that was shown when 60 s had passed.
    pub remaining_shown_at_60s: Option<f64>,
    /// Seconds from the first task to the last commit of each stage.
    pub stage_seconds: BTreeMap<StageName, f64>,
}

/// Gathers what a run left in the store.
///
/// - `watched`: times of a watcher; without them the times of the commits count.
/// - `judge`: the demo web, where the run crawled it.
///
/// # Errors
/// Run failed, where the store cannot be read.
pub async fn gather(
    store: &Store,
    recorded: &Recorded,
    watched: Option<&Watched>,
    judge: Option<&Site>,
) -> Result<Gathered, ExpectedError> {
    let mut summary = Summary {
        seed: recorded.seed,
        stages: stage_figures(recorded, watched),
        ..Summary::default()
    };
    times(&mut summary, recorded, watched);
    let mut parts = Vec::new();
    if let Some((stage, shown)) = recorded.shown(store).await? {
        let base = Chain::of(&stage, &recorded.pipeline).base;
        found(store, recorded, &base, &mut summary.pairs).await?;
        texts(store, &shown, judge, &mut summary).await?;
        parts = shown;
    }
    summary.pairs.human = human(recorded);
    evaluations(recorded, &mut summary);
    Ok(Gathered {
        summary,
        trainings: trainings(recorded),
        models: trained_models(recorded),
        parts,
    })
}

fn times(summary: &mut Summary, recorded: &Recorded, watched: Option<&Watched>) {
    match watched {
        Some(watched) => {
            let shown = watched.remaining_shown_at_60s;
            summary.wall_seconds = watched.wall_seconds;
            summary.remaining_shown_at_60s = shown;
            summary.remaining_taken_at_60s = shown.map(|_| (watched.wall_seconds - 60.0).max(0.0));
        }
        None => {
            let ended = recorded.ended_unix_ms;
            let took = ended.map(|ended| (ended - recorded.submitted_unix_ms).max(0));
            summary.wall_seconds = took.map_or(0.0, |took| took as f64 / 1e3);
            summary.sums_task_times = true;
        }
    }
}

/// Times of the stages that have commits. A training's wall time is the work's own, without
/// waiting for its turn.
fn stage_figures(recorded: &Recorded, watched: Option<&Watched>) -> Vec<StageFigures> {
    let figures = |name: &StageName| {
        let commits = recorded.commits(name);
        let training = commits
            .iter()
            .find_map(|commit| commit.outputs.training.as_ref());
        let wall_seconds = match (commits, watched) {
            ([only], _) => only.wall_seconds,
            (_, Some(watched)) => watched.stage_seconds.get(name).copied().unwrap_or_default(),
            (many, None) => many.iter().map(|commit| commit.wall_seconds).sum(),
        };
        StageFigures {
            name: name.to_string(),
            wall_seconds,
            cpu_seconds: commits.iter().map(|commit| commit.cpu_seconds).sum(),
            world_size: training.map(|training| training.world_size),
            bytes_reduced: training.map(|training| training.bytes_reduced),
            validation: training
                .and_then(|training| training.validation.as_ref())
                .and_then(BestStep::of_curve),
        }
    };
    let order = recorded.pipeline.order();
    let began = order
        .iter()
        .filter(|name| !recorded.commits(name).is_empty());
    began.map(figures).collect()
}

fn count(recorded: &Recorded, stage: &StageName, name: &str) -> u64 {
    let commits = recorded.commits(stage).iter();
    commits
        .filter_map(|commit| commit.outputs.counts.get(name))
        .sum()
}

/// Pictures found, fetched and rejected by the stage that wrote the base files.
async fn found(
    store: &Store,
    recorded: &Recorded,
    base: &StageName,
    pairs: &mut Pairs,
) -> Result<(), ExpectedError> {
    let kind = recorded.pipeline.stage(base).map(|stage| &stage.kind);
    pairs.imported = matches!(kind, Some(Kind::Import(_)));
    pairs.fetched = count(recorded, base, "fetched");
    let commits = recorded.commits(base);
    pairs.found = commits
        .iter()
        .map(|commit| found_pictures(&commit.outputs))
        .sum();
    let files = commits.iter().flat_map(|commit| &commit.outputs.files);
    for file in files.filter(|file| file.kind == FileKind::Rejects) {
        let rejects: Vec<Reject> = files::read(store, file).await.or_exit(Exit::RunFailed)?;
        for reject in rejects.iter().filter(|reject| reject.is_image) {
            let code = reject.code.as_str().to_owned();
            *pairs.rejected.entry(code).or_default() += 1;
        }
    }
    Ok(())
}

/// Pictures that a crawl or import task found, counted apart from what became of them.
///
/// Commits of earlier versions, which a later run adopts, lack `found`; their `rejected` counts
/// pictures alone.
fn found_pictures(outputs: &Outputs) -> u64 {
    let count = |name: &str| outputs.counts.get(name).copied();
    let earlier = || count("fetched").unwrap_or_default() + count("rejected").unwrap_or_default();
    count("found").unwrap_or_else(earlier)
}

/// Texts of annotators that some stage trains on.
fn human(recorded: &Recorded) -> u64 {
    let bases = recorded.trained_on().into_iter();
    let imports = bases.filter(|base| match recorded.pipeline.stage(base) {
        Some(Stage {
            kind: Kind::Import(import),
            ..
        }) => import.origin() == Origin::Human,
        _ => false,
    });
    imports.map(|base| count(recorded, &base, "texts")).sum()
}

/// Counts the rows and texts of the shown dataset, and what the judge says of them.
async fn texts(
    store: &Store,
    parts: &[Part],
    judge: Option<&Site>,
    summary: &mut Summary,
) -> Result<(), ExpectedError> {
    let mut tally = Tally::default();
    for part in parts {
        let rows = View::read(store, part, Pixels::Skip)
            .await
            .or_exit(Exit::RunFailed)?;
        for row in &rows {
            tally.row(row, judge, &mut summary.pairs);
        }
    }
    summary.filter = judge.map(|_| Filter {
        web: tally.web.figures(),
        synthetic: tally.synthetic.figures(),
    });
    Ok(())
}

#[derive(Default)]
struct Tally {
    web: Judged,
    synthetic: Judged,
}

impl Tally {
    fn row(&mut self, row: &ViewRow, judge: Option<&Site>, pairs: &mut Pairs) {
        if !row.keep {
            let reason = row.reason.clone().unwrap_or_else(|| "unknown".to_owned());
            *pairs.dropped.entry(reason).or_default() += 1;
            return;
        }
        pairs.curated += 1;
        let url = &row.pair.image_url;
        let kept = |text: &Text| row.verdict(&text.text_id).map(|verdict| verdict.kept);
        for text in row.curated_texts().filter(|text| text.origin.is_web()) {
            pairs.curated_texts += 1;
            if let Some(site) = judge {
                let kind = site.kind(url, &text.text);
                let kind = kind.map_or("unknown", TextKind::as_str).to_owned();
                *pairs.curated_texts_by_kind.entry(kind).or_default() += 1;
            }
            let kept = kept(text);
            *match kept {
                Some(true) => &mut pairs.kept_web,
                Some(false) => &mut pairs.dropped_web,
                None => &mut pairs.unfiltered_web,
            } += 1;
            judged(&mut self.web, judge, (url, text), kept);
        }
        let synthetic = row.synthetic.iter();
        for text in synthetic.filter(|text| text.origin == Origin::Synthetic) {
            pairs.synthetic += 1;
            let kept = kept(text);
            *match kept {
                Some(true) => &mut pairs.kept_synthetic,
                Some(false) => &mut pairs.dropped_synthetic,
                None => &mut pairs.unfiltered_synthetic,
            } += 1;
            judged(&mut self.synthetic, judge, (url, text), kept);
        }
    }
}

/// Compares what the filter decided with what the judge says.
fn judged(
    judged: &mut Judged,
    judge: Option<&Site>,
    (url, text): (&str, &Text),
    kept: Option<bool>,
) {
    let (Some(site), Some(kept)) = (judge, kept) else {
        return;
    };
    let counts = match site.judgement(url, &text.text) {
        Some(Judgement::Good) => &mut judged.good,
        Some(Judgement::Vague) => &mut judged.vague,
        // A picture that the demo web does not know has no true texts.
        Some(Judgement::Bad) | None => &mut judged.bad,
    };
    counts[usize::from(!kept)] += 1;
}

/// Figures and arms by model; blind figures of the bootstrapped models, or of all where none is.
fn evaluations(recorded: &Recorded, summary: &mut Summary) {
    let arms = arms(&recorded.pipeline);
    let mut blind = BTreeMap::new();
    for (name, model, figures) in measured(recorded) {
        let arm = arms.get(model).copied().unwrap_or_default();
        if let Some(figures) = figures.blind {
            blind.insert(name.clone(), figures);
        }
        summary.arms.insert(name.clone(), arm);
        summary.models.insert(name, figures.sighted);
    }
    let is_bootstrapped = |name: &str| summary.arm(name).texts == Texts::Bootstrapped;
    if summary.models.keys().any(|name| is_bootstrapped(name)) {
        blind.retain(|name, _| is_bootstrapped(name));
    }
    summary.blind = blind;
}

/// Name in the summary, stage of the model, and figures of each evaluation that is committed.
fn measured(recorded: &Recorded) -> Vec<(String, &StageName, Evaluation)> {
    let stages = recorded.pipeline.stages.iter();
    let evaluations: Vec<(&StageName, &StageName)> = stages
        .filter_map(|stage| match &stage.kind {
            Kind::Evaluate(evaluate) => Some((&stage.name, &evaluate.model)),
            _ => None,
        })
        .collect();
    let of_model = |model| {
        evaluations
            .iter()
            .filter(|(_, other)| *other == model)
            .count()
    };
    evaluations
        .iter()
        .filter_map(|(stage, model)| {
            let mut commits = recorded.commits(stage).iter();
            let figures = commits.find_map(|commit| commit.outputs.evaluation.clone())?;
            let name = if of_model(*model) == 1 { model } else { stage };
            Some((name.to_string(), *model, figures))
        })
        .collect()
}

fn trainings(recorded: &Recorded) -> Vec<(StageName, Training)> {
    let of_stage = |name: &StageName| {
        let mut commits = recorded.commits(name).iter();
        let training = commits.find_map(|commit| commit.outputs.training.clone())?;
        Some((name.clone(), training))
    };
    let stages = recorded.pipeline.stages.iter();
    stages.filter_map(|stage| of_stage(&stage.name)).collect()
}

fn trained_models(recorded: &Recorded) -> BTreeMap<StageName, ModelDigest> {
    let stages = recorded.pipeline.stages.iter();
    let trains = stages.filter(|stage| matches!(stage.kind, Kind::Train(_)));
    trains
        .filter_map(|stage| {
            let mut commits = recorded.commits(&stage.name).iter();
            let model = commits.find_map(|commit| commit.outputs.model)?;
            Some((stage.name.clone(), model))
        })
        .collect()
}
