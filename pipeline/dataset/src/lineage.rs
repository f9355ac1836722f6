//! Traces a text to its origin: page, picture, models, verdicts, versions and commits.
//!
//! ```text
//! text ─► row of the view ─► base and overlays ─► commits of (run, stage) of each version it passed
//! ```

use capstan_plan::commit::{Commit, File, FileKind, Part, VersionRef};
use capstan_plan::id::{
    AttemptId, Digest, ModelDigest, PairId, RunId, ShardId, StageName, TextId, WorkerId,
};
use capstan_plan::row::{Origin, Text, Verdict};
use serde::{Serialize, Serializer};

use crate::error::Result;
use crate::files::Pixels;
use crate::recipes;
use crate::record::kind_name;
use crate::store::Store;
use crate::versions::{self, Version};
use crate::view::{View, ViewRow};
use crate::{commits, lists, stats};

/// A search for texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The text of this id, or all texts of the pair of this id.
    Id(Digest),
    /// Texts that contain these words, ignoring case.
    Words(String),
}

impl Query {
    /// 64 hexadecimal digits are an id, anything else is words.
    pub fn parse(text: &str) -> Self {
        match Digest::from_hex(text.trim()) {
            Some(id) => Self::Id(id),
            None => Self::Words(text.trim().to_lowercase()),
        }
    }

    fn is_id(&self, id: &Digest) -> bool {
        matches!(self, Self::Id(queried) if queried == id)
    }

    fn matches(&self, pair: &PairId, text: &Text) -> bool {
        match self {
            Self::Id(_) => self.is_id(&text.text_id.0) || self.is_id(&pair.0),
            Self::Words(words) => text.text.to_lowercase().contains(words),
        }
    }
}

/// The origin of a text, or of a picture without texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// The text; `None` for a picture without texts. As JSON its fields lie beside the others.
    #[serde(flatten)]
    pub text: Option<Traced>,
    /// Whether curation keeps the picture and, for a found text, the text itself.
    pub curated: bool,
    /// Why curation drops the picture.
    pub reason: Option<String>,
    /// Queries that the kept texts of the picture match.
    pub queries: Vec<String>,
    /// The picture on its page.
    pub pair_id: PairId,
    /// URL or key of the picture.
    pub image_url: String,
    /// The page, or the file of an import, that the picture was found on.
    pub page_url: String,
    /// Its key within an archive.
    pub archive_ref: Option<String>,
    /// SHA-256 of the picture as downloaded.
    #[serde(serialize_with = "hex")]
    pub sha256: [u8; 32],
    /// When the picture was fetched, in milliseconds since 1970.
    pub fetched_at_ms: i64,
    /// Licence where stated.
    pub licence: Option<String>,
    /// Attribution where stated.
    pub attribution: Option<String>,
    /// Row of the base file.
    pub row: u32,
    /// Versions that hold the text, from the queried one back to the one that its picture came in.
    pub versions: Vec<Passed>,
    /// Files with data of the text, base first, and the commits that made them.
    pub files: Vec<Made>,
}

/// A text with its writer and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traced {
    /// Its id.
    pub text_id: TextId,
    /// The text itself.
    pub text: String,
    /// Where the text was found, or `synthetic`.
    pub origin: Origin,
    /// The captioner, of a synthetic text.
    pub written_by: Option<ModelDigest>,
    /// The verdict of the last filter, if it judged the text.
    pub judged: Option<Judged>,
}

/// The verdict of a filter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The filter.
    pub by: Option<ModelDigest>,
    /// Cosine of picture and text.
    pub itc: f32,
    /// Probability that they match.
    pub itm: f32,
    /// Whether the text stays.
    pub kept: bool,
    /// The rule that decided.
    pub reason: String,
}

/// A version that holds a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Its name and number, such as `web@3`.
    pub version: String,
    /// The run that made it.
    pub run: RunId,
    /// The stage that made it.
    pub stage: StageName,
}

/// A file and its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// `base`, `pixels`, `curation`, `captions` or `verdicts`.
    pub kind: &'static str,
    /// The file, `data/<digest>.parquet`.
    pub file: Digest,
    /// The commit of the run that published it; `None` if the run is no longer in the store.
    pub commit: Option<Committed>,
    /// The earlier commit of the same recipe that the run adopted, if it did.
    pub adopted_from: Option<Committed>,
}

/// The identifiers of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Committed {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard.
    pub shard: ShardId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The worker.
    pub worker: WorkerId,
}

impl From<&Commit> for Committed {
    fn from(commit: &Commit) -> Self {
        Self {
            run: commit.run.clone(),
            stage: commit.stage.clone(),
            shard: commit.shard.clone(),
            attempt: commit.attempt.clone(),
            worker: commit.worker.clone(),
        }
    }
}

fn hex<S: Serializer>(sha256: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Digest(*sha256))
}

/// Traces the texts of a version that match `query`, at most `limit`, in the order of the version. A
/// pair's id finds its picture even if that has no text. Pixels files are not opened.
///
/// # Errors
/// Those of [`versions::parts`], of the view and of the commits.
pub async fn trace(
    store: &Store,
    version: &VersionRef,
    query: &Query,
    limit: usize,
) -> Result<Vec<Lineage>> {
    let history = History::read(store, version).await?;
    let mut found = Vec::new();
    for part in versions::parts(store, version).await? {
        if found.len() >= limit {
            break;
        }
        let before = found.len();
        let mut view = View::open(store, &part, Pixels::Skip).await?;
        while let Some(rows) = view.next().await? {
            for row in &rows {
                let mut texts = row.pair.texts.iter().chain(&row.synthetic).peekable();
                let is_textless = texts.peek().is_none() && query.is_id(&row.pair.pair_id.0);
                let texts = texts.filter(|text| query.matches(&row.pair.pair_id, text));
                let texts = texts.map(Some).chain(is_textless.then_some(None));
                let room = limit - found.len();
                found.extend(texts.take(room).map(|text| describe(row, text, &view)));
            }
        }
        if found.len() > before {
            let files = history.files(store, &part).await?;
            for lineage in &mut found[before..] {
                lineage.versions.clone_from(&history.passed);
                lineage.files.clone_from(&files);
            }
        }
    }
    Ok(found)
}

/// The part of a lineage that the row itself holds.
fn describe(row: &ViewRow, text: Option<&Text>, view: &View) -> Lineage {
    let is_curated = text.is_none_or(|text| {
        text.origin == Origin::Synthetic || row.kept_texts.contains(&text.text_id)
    });
    let pair = &row.pair;
    Lineage {
        text: text.map(|text| traced(row, text, view)),
        curated: row.keep && is_curated,
        reason: row.reason.clone(),
        queries: row.queries.clone(),
        pair_id: pair.pair_id,
        image_url: pair.image_url.clone(),
        page_url: pair.page_url.clone(),
        archive_ref: pair.archive_ref.clone(),
        sha256: pair.sha256,
        fetched_at_ms: pair.fetched_at_ms,
        licence: pair.licence.clone(),
        attribution: pair.attribution.clone(),
        row: row.row,
        versions: Vec::new(),
        files: Vec::new(),
    }
}

fn traced(row: &ViewRow, text: &Text, view: &View) -> Traced {
    let is_synthetic = text.origin == Origin::Synthetic;
    Traced {
        text_id: text.text_id,
        text: text.text.clone(),
        origin: text.origin,
        written_by: view.captioner().filter(|_| is_synthetic),
        judged: row.verdict(&text.text_id).map(|verdict: &Verdict| Judged {
            by: view.filter(),
            itc: verdict.itc,
            itm: verdict.itm,
            kept: verdict.kept,
            reason: verdict.reason.clone(),
        }),
    }
}

/// The versions before a version, with the commits of their stages.
struct History {
    passed: Vec<Passed>,
    /// Commits of each version's stage, newest version first.
    commits: Vec<Vec<Commit>>,
}

impl History {
    async fn read(store: &Store, version: &VersionRef) -> Result<Self> {
        let mut history = Self {
            passed: Vec::new(),
            commits: Vec::new(),
        };
        let mut next = Some(version.clone());
        while let Some(version) = next.filter(|_| history.passed.len() < stats::MAX_LINEAGE) {
            let Version {
                derived_from,
                run,
                stage,
                ..
            } = versions::read(store, &version).await?;
            let mut commits = commits::of_stage(store, &run, &stage).await?;
            for commit in &mut commits {
                commit.outputs.files = lists::output_files(store, &commit.outputs).await?;
            }
            history.commits.push(commits);
            history.passed.push(Passed {
                version: version.to_string(),
                run,
                stage,
            });
            next = derived_from;
        }
        Ok(history)
    }

    /// The files of a shard, each with the commit that made it.
    async fn files(&self, store: &Store, part: &Part) -> Result<Vec<Made>> {
        let mut made = Vec::new();
        for file in part.files() {
            let commit = self.commit_of(file);
            let adopted = commit.filter(|commit| commit.adopted);
            let first = match adopted {
                Some(commit) => recipes::adopt(store, &commit.recipe).await?,
                None => None,
            };
            made.push(Made {
                kind: kind_name(file.kind),
                file: file.digest,
                commit: commit.map(Committed::from),
                adopted_from: first.as_ref().map(Committed::from),
            });
        }
        Ok(made)
    }

    /// The commit that outputs the file; for an overlay, the one that outputs it for this base.
    fn commit_of(&self, file: &File) -> Option<&Commit> {
        let is_same = |named: &File| {
            named.digest == file.digest && (file.kind == FileKind::Base || named.base == file.base)
        };
        let mut commits = self.commits.iter().flatten();
        commits.find(|commit| commit.outputs.files.iter().any(is_same))
    }
}

#[cfg(test)]
mod tests;
