//! The content of the page: figures, and samples of pictures with their texts.

use std::collections::BTreeMap;

use capstan_dataset::Store;
use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_demoweb::{Judgement, Site};
use capstan_plan::draw::Draws;
use capstan_plan::row::Text;
use capstan_report::{RunReport, SampleCard, TextLine};

use super::gather::Gathered;
use crate::error::{Exit, ExpectedError, OrExit};

/// Cards of each fate.
const CARDS_PER_FATE: usize = 12;

/// What stands at the top and at the foot of the page.
pub struct Heading {
    /// Title of the page.
    pub title: String,
    /// When the run started, as people read it.
    pub started: Option<String>,
    /// The command that makes the page again.
    pub command: String,
}

/// The content of the page.
///
/// - `judge`: the demo web, where the run crawled it.
///
/// # Errors
/// Run failed, where the store cannot be read.
pub async fn run_report(
    store: &Store,
    gathered: &Gathered,
    judge: Option<&Site>,
    heading: Heading,
) -> Result<RunReport, ExpectedError> {
    let chosen = choose(store, gathered, gathered.summary.seed).await?;
    let mut samples = Vec::new();
    for (shard, mut rows) in chosen {
        rows.sort_by_key(|row| row.row);
        let wanted: Vec<u32> = rows.iter().map(|row| row.row).collect();
        let part = &gathered.parts[shard];
        let images = files::pictures(store, part, &wanted)
            .await
            .or_exit(Exit::RunFailed)?;
        let cards = rows.into_iter().zip(images);
        samples.extend(cards.map(|(row, image)| card(&row, image.to_vec(), judge)));
    }
    Ok(RunReport {
        title: heading.title,
        summary: gathered.summary.clone(),
        samples,
        trainings: gathered
            .trainings
            .iter()
            .map(|(stage, training)| (stage.to_string(), training.clone()))
            .collect(),
        made_with: concat!("capstan ", env!("CARGO_PKG_VERSION")).to_owned(),
        started: heading.started,
        command: Some(heading.command),
    })
}

/// What became of a row, for choosing a spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    BothKept,
    WebKept,
    SyntheticKept,
    BothDropped,
    Curated,
    DroppedByCuration,
}

fn fate(row: &ViewRow) -> Fate {
    if !row.keep {
        return Fate::DroppedByCuration;
    }
    let kept = |text: &Text| {
        row.verdict(&text.text_id)
            .is_some_and(|verdict| verdict.kept)
    };
    if row.verdicts.is_empty() {
        return Fate::Curated;
    }
    match (
        row.curated_texts().any(kept),
        row.synthetic.iter().any(kept),
    ) {
        (true, true) => Fate::BothKept,
        (true, false) => Fate::WebKept,
        (false, true) => Fate::SyntheticKept,
        (false, false) => Fate::BothDropped,
    }
}

/// Rows of every fate, drawn by a key: the same run shows the same samples.
async fn choose(
    store: &Store,
    gathered: &Gathered,
    seed: u64,
) -> Result<BTreeMap<usize, Vec<ViewRow>>, ExpectedError> {
    let draws = Draws::new(seed, "report samples");
    let mut best: BTreeMap<Fate, BTreeMap<u64, (usize, ViewRow)>> = BTreeMap::new();
    for (shard, part) in gathered.parts.iter().enumerate() {
        let mut view = View::open(store, part, Pixels::Skip)
            .await
            .or_exit(Exit::RunFailed)?;
        while let Some(rows) = view.next().await.or_exit(Exit::RunFailed)? {
            for row in rows {
                let rank = draws.u64(&row.pair.pair_id.0.0, 0);
                let of_fate = best.entry(fate(&row)).or_default();
                of_fate.insert(rank, (shard, row));
                if of_fate.len() > CARDS_PER_FATE {
                    of_fate.pop_last();
                }
            }
        }
    }
    let mut chosen: BTreeMap<usize, Vec<ViewRow>> = BTreeMap::new();
    for (shard, row) in best.into_values().flat_map(BTreeMap::into_values) {
        chosen.entry(shard).or_default().push(row);
    }
    Ok(chosen)
}

fn card(row: &ViewRow, image: Vec<u8>, judge: Option<&Site>) -> SampleCard {
    let url = &row.pair.image_url;
    let line = |text: &Text| {
        let verdict = row.verdict(&text.text_id);
        TextLine {
            text: text.text.clone(),
            origin: text.origin,
            itc: verdict.map(|verdict| verdict.itc),
            itm: verdict.map(|verdict| verdict.itm),
            kept: verdict.map(|verdict| verdict.kept),
            reason: verdict.map(|verdict| verdict.reason.clone()),
            judgement: judge
                .and_then(|site| site.judgement(url, &text.text))
                .map(|judgement| judgement_name(judgement).to_owned()),
        }
    };
    SampleCard {
        image,
        page_url: row.pair.page_url.clone(),
        image_url: url.clone(),
        curated: row.keep,
        reason: row.reason.clone(),
        texts: row
            .pair
            .texts
            .iter()
            .chain(&row.synthetic)
            .map(line)
            .collect(),
    }
}

fn judgement_name(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Good => "good",
        Judgement::Vague => "vague",
        Judgement::Bad => "bad",
    }
}
