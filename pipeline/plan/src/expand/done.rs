//! What a finished stage gave, read from its commits and held against what its tasks make.

use std::collections::BTreeMap;

use super::{Done, Error, Given, Step};
use crate::commit::{Commit, File, FileKind, Outputs, Part, VersionRef};
use crate::id::ShardId;
use crate::stage::Import;
use crate::task::{Task, Work};

/// A stage of one task.
pub(super) fn global(step: &Step<'_>, task: Task, commit: &Commit) -> Result<Done, Error> {
    let given = match &task.work {
        Work::Import { config, .. } => Given::Dataset {
            dataset: config.dataset.clone(),
            derived_from: None,
            parts: bases(commit),
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
pub(super) fn slices(step: &Step<'_>, config: &Import, tasks: Vec<Task>) -> Done {
    let commits = tasks.iter().filter_map(|task| step.commit(&task.shard));
    let given = Given::Dataset {
        dataset: config.dataset.clone(),
        derived_from: None,
        parts: commits.flat_map(bases).collect(),
    };
    Done::new(step, given, &tasks)
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

/// Sums over the commits of a stage, and the rows of the dataset that they give.
pub(super) fn statistics(step: &Step<'_>, given: &Given) -> BTreeMap<String, u64> {
    let mut sums = sum_counts(step.commits.values().map(|commit| &commit.outputs));
    if let Given::Dataset { parts, .. } = given {
        sums.insert(
            "rows".to_owned(),
            parts.iter().map(|part| part.base.rows).sum(),
        );
    }
    sums
}

/// Name of the count of all rejects.
const REJECTED: &str = "rejected";

/// Adds up the counts of commits by name.
///
/// `rejected` and `rejected.<code>` are taken from the rejects by code alone: a commit's own count
/// `rejected` says the same once more, and in commits of earlier versions that of the pictures.
fn sum_counts<'a>(outputs: impl IntoIterator<Item = &'a Outputs>) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |name: &str, count: u64| *sums.entry(name.to_owned()).or_default() += count;
    for outputs in outputs {
        for (name, count) in &outputs.counts {
            let is_counted_by_code = name == REJECTED;
            add(name, if is_counted_by_code { 0 } else { *count });
        }
        for (code, count) in &outputs.rejects {
            add(REJECTED, *count);
            add(&format!("{REJECTED}.{}", code.as_str()), *count);
        }
    }
    sums
}

fn bases(commit: &Commit) -> Vec<Part> {
    let files = commit.outputs.files.iter();
    let bases = files.filter(|file| file.kind == FileKind::Base);
    bases
        .map(|base| Part {
            base: base.clone(),
            overlays: Vec::new(),
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reject::RejectCode;

    /// Outputs of a task that read pictures: `fetched` of them, the others rejected, and pages or
    /// files rejected beside them.
    fn outputs(
        fetched: u64,
        pictures: &[(RejectCode, u64)],
        pages: &[(RejectCode, u64)],
    ) -> Outputs {
        let mut outputs = Outputs::default();
        let sum =
            |rejects: &[(RejectCode, u64)]| rejects.iter().map(|(_, count)| count).sum::<u64>();
        for (code, count) in pictures.iter().chain(pages) {
            *outputs.rejects.entry(*code).or_default() += count;
        }
        for (name, count) in [
            ("found", fetched + sum(pictures)),
            ("fetched", fetched),
            ("rejected", sum(pictures) + sum(pages)),
            ("rejected_pages", sum(pages)),
        ] {
            outputs.counts.insert(name.to_owned(), count);
        }
        outputs
    }

    fn rejects() -> impl Strategy<Value = Vec<(RejectCode, u64)>> {
        let code = prop::sample::select(RejectCode::ALL);
        prop::collection::vec((code, 0..1_000u64), 0..8)
    }

    #[test]
    fn a_broken_picture_and_one_without_a_text_are_two_rejects() {
        let rejects = [(RejectCode::Decode, 1), (RejectCode::Record, 1)];
        let sums = sum_counts([&outputs(3, &rejects, &[])]);
        assert_eq!(
            (sums["found"], sums["fetched"], sums["rejected"]),
            (5, 3, 2)
        );
    }

    #[test]
    fn commits_that_count_pictures_alone_add_up_by_code() {
        let mut old = outputs(0, &[(RejectCode::Decode, 1)], &[(RejectCode::Robots, 4)]);
        old.counts.insert("rejected".to_owned(), 1);
        let sums = sum_counts([&old, &outputs(0, &[(RejectCode::Decode, 2)], &[])]);
        assert_eq!((sums["rejected"], sums["rejected.decode"]), (7, 3));
    }

    proptest! {
        #[test]
        fn rejects_add_up(
            commits in prop::collection::vec((0..1_000u64, rejects(), rejects()), 0..6),
        ) {
            let commits: Vec<Outputs> = commits
                .iter()
                .map(|(fetched, pictures, pages)| outputs(*fetched, pictures, pages))
                .collect();
            let sums = sum_counts(&commits);
            let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
            let by_code = sums.iter().filter(|(name, _)| name.starts_with("rejected."));
            prop_assert_eq!(sum("rejected"), by_code.map(|(_, count)| count).sum::<u64>());
            let of_commits = commits.iter().flat_map(|outputs| outputs.rejects.values());
            prop_assert_eq!(sum("rejected"), of_commits.sum::<u64>());
            let counted = commits.iter().map(|outputs| outputs.counts["rejected"]);
            prop_assert_eq!(sum("rejected"), counted.sum::<u64>());
            let rejected_pictures = sum("rejected") - sum("rejected_pages");
            prop_assert_eq!(sum("found"), sum("fetched") + rejected_pictures);
        }
    }
}
