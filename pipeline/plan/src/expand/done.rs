//! What a finished stage gave, read from its commits and held against what its tasks make.

use std::collections::BTreeMap;

use super::{Done, Error, Given, Step};
use crate::commit::{Commit, File, FileKind, Part, VersionRef, parts_of};
use crate::id::ShardId;
use crate::stage::Import;
use crate::task::{Task, Work};

/// A stage of one task.
pub(super) fn global(step: &Step<'_>, task: Task, commit: &Commit) -> Result<Done, Error> {
    let given = match &task.work {
        Work::Import { config, .. } => Given::Dataset {
            dataset: config.dataset.clone(),
            derived_from: None,
            parts: bases(step, commit)?,
        },
        Work::Balance { config, parts } => {
            let (version, _) = step.dataset(&config.from)?;
            Given::Dataset {
                dataset: version.dataset.clone(),
                derived_from: Some(version.clone()),
                parts: with_overlays(step, commit, parts)?,
            }
        }
        Work::Model { .. } | Work::Tokenizer { .. } | Work::Train { .. } => {
            match commit.outputs.model {
                Some(digest) => Given::Model(digest),
                None => return Err(step.damaged(&task.shard, "names no model")),
            }
        }
        Work::Evaluate { .. } => match commit.outputs.evaluation {
            Some(_) => Given::Figures,
            None => return Err(step.damaged(&task.shard, "holds no figures")),
        },
        Work::Frontier { .. }
        | Work::Pages { .. }
        | Work::ImageFrontier { .. }
        | Work::Images { .. }
        | Work::Curate { .. }
        | Work::Caption { .. }
        | Work::Filter { .. } => {
            return Err(step.damaged(&task.shard, "is of a stage that is not global"));
        }
    };
    Ok(Done::new(step, given, &[task]))
}

/// An import in slices: base files in the order of the slices; slices given up are left out.
pub(super) fn slices(step: &Step<'_>, config: &Import, tasks: Vec<Task>) -> Result<Done, Error> {
    let given = Given::Dataset {
        dataset: config.dataset.clone(),
        derived_from: None,
        parts: all_bases(step, &tasks)?,
    };
    Ok(Done::new(step, given, &tasks))
}

/// A stage that added one overlay to each part; parts given up are left out.
pub(super) fn per_shard(
    step: &Step<'_>,
    version: &VersionRef,
    parts: &[Part],
    kind: FileKind,
    tasks: Vec<Task>,
) -> Result<Done, Error> {
    let mut overlaid = Vec::with_capacity(parts.len());
    for (task, part) in tasks.iter().zip(parts) {
        let Some(commit) = step.commit(&task.shard) else {
            continue;
        };
        let overlays = commit.outputs.files.iter();
        let mut overlays = overlays.filter(|file| file.kind == kind);
        let (Some(overlay), None) = (overlays.next(), overlays.next()) else {
            return Err(step.damaged(&task.shard, "does not name exactly one overlay"));
        };
        overlaid.push(with_overlay(step, &task.shard, part, overlay)?);
    }
    let given = Given::Dataset {
        dataset: version.dataset.clone(),
        derived_from: Some(version.clone()),
        parts: overlaid,
    };
    Ok(Done::new(step, given, &tasks))
}

/// Sums over the commits of a stage.
pub(super) fn statistics(step: &Step<'_>, given: &Given) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |name: &str, count: u64| *sums.entry(name.to_owned()).or_default() += count;
    for commit in step.commits.values() {
        for (name, count) in &commit.outputs.counts {
            add(name, *count);
        }
        for (code, count) in &commit.outputs.rejects {
            add("rejected", *count);
            add(&format!("rejected.{}", code.as_str()), *count);
        }
    }
    if let Given::Dataset { parts, .. } = given {
        sums.insert(
            "rows".to_owned(),
            parts.iter().map(|part| part.base.rows).sum(),
        );
    }
    sums
}

/// The shards of all of these tasks' commits, in the order of the tasks.
pub(super) fn all_bases(step: &Step<'_>, tasks: &[Task]) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    for commit in tasks.iter().filter_map(|task| step.commit(&task.shard)) {
        parts.extend(bases(step, commit)?);
    }
    Ok(parts)
}

fn bases(step: &Step<'_>, commit: &Commit) -> Result<Vec<Part>, Error> {
    parts_of(&commit.outputs.files).map_err(|error| step.damaged(&commit.shard, error.to_string()))
}

/// One overlay a part, in the order of the parts.
fn with_overlays(step: &Step<'_>, commit: &Commit, parts: &[Part]) -> Result<Vec<Part>, Error> {
    let files = commit.outputs.files.iter();
    let overlays: Vec<&File> = files
        .filter(|file| file.kind == FileKind::Curation)
        .collect();
    if overlays.len() != parts.len() {
        let reason = format!(
            "names {} overlays for {} shards",
            overlays.len(),
            parts.len()
        );
        return Err(step.damaged(&commit.shard, reason));
    }
    let pairs = parts.iter().zip(overlays);
    pairs
        .map(|(part, overlay)| with_overlay(step, &commit.shard, part, overlay))
        .collect()
}

fn with_overlay(
    step: &Step<'_>,
    shard: &ShardId,
    part: &Part,
    overlay: &File,
) -> Result<Part, Error> {
    if overlay.base != Some(part.base.digest) {
        let reason = format!("names an overlay of another base than {}", part.base.digest);
        return Err(step.damaged(shard, reason));
    }
    let mut part = part.clone();
    part.overlays.push(overlay.clone());
    Ok(part)
}
