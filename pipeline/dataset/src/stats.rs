//! Statistics of a dataset version: its rows and texts, and what was dropped for which reason.

use std::collections::BTreeMap;

use capstan_plan::commit::{Part, VersionRef};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{Origin, Text};
use serde::Serialize;

use crate::error::Result;
use crate::files::Pixels;
use crate::store::Store;
use crate::view::{View, ViewRow};
use crate::{commits, versions};

/// Most versions between a version and the one that its pairs came in.
pub(crate) const MAX_LINEAGE: usize = 1000;

/// Texts of one origin. `found = curated + dropped`; `curated = kept + refused + unjudged`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TextStats {
    /// In base files, or written by a captioner.
    pub found: u64,
    /// Texts that curation keeps; synthetic ones if it keeps their picture.
    pub curated: u64,
    /// Dropped by curation, or with their picture.
    pub dropped: u64,
    /// Curated and kept by the filter.
    pub kept: u64,
    /// Curated and refused by the filter.
    pub refused: u64,
    /// Curated, without a verdict: human texts, and all texts of a shard without verdicts.
    pub unjudged: u64,
}

/// Statistics of a version. `rows = kept + dropped`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Shards.
    pub parts: u64,
    /// Rows: pictures as found on pages.
    pub rows: u64,
    /// Rows that curation keeps.
    pub kept: u64,
    /// Rows that it drops.
    pub dropped: u64,
    /// Dropped rows by the reason of the first curation that drops them.
    pub dropped_by_reason: BTreeMap<String, u64>,
    /// Texts by origin.
    pub texts: BTreeMap<&'static str, TextStats>,
    /// Size of base files, without pixels files.
    pub base_bytes: u64,
    /// Size of pixels files; 0 for a store written before pixels had files of their own.
    pub pixels_bytes: u64,
    /// Size of overlays.
    pub overlay_bytes: u64,
    /// Rejected pictures and pages of the stage that the pairs came from.
    pub rejects: BTreeMap<RejectCode, u64>,
}

/// Reads a version; pixels files are not opened.
///
/// # Errors
/// Those of [`versions::parts`] and of the view.
pub async fn stats(store: &Store, version: &VersionRef) -> Result<Stats> {
    let mut stats = read_parts(store, &versions::parts(store, version).await?).await?;
    stats.rejects = rejects(store, version).await?;
    Ok(stats)
}

/// Statistics of these shards; `rejects` stays empty.
///
/// # Errors
/// Those of the view.
pub async fn read_parts(store: &Store, parts: &[Part]) -> Result<Stats> {
    let mut stats = Stats {
        parts: parts.len() as u64,
        ..Stats::default()
    };
    for part in parts {
        stats.base_bytes += part.base.size_bytes;
        stats.pixels_bytes += part.pixels.as_ref().map_or(0, |file| file.size_bytes);
        let overlays = part.overlays.iter().map(|file| file.size_bytes);
        stats.overlay_bytes += overlays.sum::<u64>();
        let mut view = View::open(store, part, Pixels::Skip).await?;
        while let Some(rows) = view.next().await? {
            for row in &rows {
                add_row(&mut stats, row);
            }
        }
    }
    Ok(stats)
}

fn add_row(stats: &mut Stats, row: &ViewRow) {
    stats.rows += 1;
    if row.keep {
        stats.kept += 1;
    } else {
        stats.dropped += 1;
        let reason = row.reason.clone().unwrap_or_default();
        *stats.dropped_by_reason.entry(reason).or_default() += 1;
    }
    for text in &row.pair.texts {
        let is_curated = row.kept_texts.contains(&text.text_id);
        add_text(stats, row, text, is_curated);
    }
    for text in &row.synthetic {
        add_text(stats, row, text, row.keep);
    }
}

fn add_text(stats: &mut Stats, row: &ViewRow, text: &Text, is_curated: bool) {
    let counts = stats.texts.entry(text.origin.as_str()).or_default();
    counts.found += 1;
    if !is_curated {
        counts.dropped += 1;
        return;
    }
    counts.curated += 1;
    match row.verdict(&text.text_id) {
        _ if text.origin == Origin::Human => counts.unjudged += 1,
        None => counts.unjudged += 1,
        Some(verdict) if verdict.kept => counts.kept += 1,
        Some(_) => counts.refused += 1,
    }
}

/// Rejects by code of the stage that wrote the base files.
async fn rejects(store: &Store, version: &VersionRef) -> Result<BTreeMap<RejectCode, u64>> {
    let mut root = versions::read(store, version).await?;
    for _ in 0..MAX_LINEAGE {
        let Some(older) = &root.derived_from else {
            break;
        };
        root = versions::read(store, older).await?;
    }
    let mut rejects = BTreeMap::new();
    for commit in commits::of_stage(store, &root.run, &root.stage).await? {
        for (code, count) in commit.outputs.rejects {
            *rejects.entry(code).or_default() += count;
        }
    }
    Ok(rejects)
}
