//! What a finished stage gave, read from its commits and held against what its tasks make.

use std::collections::BTreeMap;

use super::{Done, Error, Expansion, Given, Step};
use crate::commit::{Commit, File, FileKind, Outputs, Part, VersionRef, parts_of};
use crate::id::ShardId;
use crate::task::Task;

impl Step<'_> {
    /// The end of a stage that added one overlay to each part; parts given up are left out.
    pub(super) fn overlaid(
        &self,
        version: &VersionRef,
        parts: &[Part],
        kind: FileKind,
        tasks: &[Task],
    ) -> Result<Expansion, Error> {
        let mut overlaid = Vec::with_capacity(parts.len());
        for (task, part) in tasks.iter().zip(parts) {
            let Some(commit) = self.commit(&task.shard) else {
                continue;
            };
            let overlays = commit.outputs.files.iter();
            let mut overlays = overlays.filter(|file| file.kind == kind);
            let (Some(overlay), None) = (overlays.next(), overlays.next()) else {
                return Err(self.damaged(&task.shard, "does not name exactly one overlay"));
            };
            overlaid.push(self.with_overlay(&task.shard, part, overlay)?);
        }
        let given = Given::next_version(version, overlaid);
        Ok(Expansion::Done(Done::new(self, given, tasks)))
    }

    /// The parts with one overlay each, in their order.
    pub(crate) fn with_overlays(
        &self,
        commit: &Commit,
        parts: &[Part],
    ) -> Result<Vec<Part>, Error> {
        let files = commit.outputs.files.iter();
        let overlays: Vec<&File> = files
            .filter(|file| file.kind == FileKind::Curation)
            .collect();
        if overlays.len() != parts.len() {
            let (found, wanted) = (overlays.len(), parts.len());
            let reason = format!("names {found} overlays for {wanted} shards");
            return Err(self.damaged(&commit.shard, reason));
        }
        let pairs = parts.iter().zip(overlays);
        pairs
            .map(|(part, overlay)| self.with_overlay(&commit.shard, part, overlay))
            .collect()
    }

    fn with_overlay(&self, shard: &ShardId, part: &Part, overlay: &File) -> Result<Part, Error> {
        if overlay.base != Some(part.base.digest) {
            let reason = format!("names an overlay of another base than {}", part.base.digest);
            return Err(self.damaged(shard, reason));
        }
        let mut part = part.clone();
        part.overlays.push(overlay.clone());
        Ok(part)
    }

    /// The model or vocabulary of a commit.
    pub(crate) fn given_model(&self, commit: &Commit) -> Result<Given, Error> {
        match commit.outputs.model {
            Some(digest) => Ok(Given::Model(digest)),
            None => Err(self.damaged(&commit.shard, "names no model")),
        }
    }

    /// The shards that these tasks' commits hold, in the order of the tasks; tasks given up are
    /// left out.
    pub(crate) fn bases(&self, tasks: &[Task]) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        for commit in self.commits_of(tasks) {
            parts.extend(self.bases_in(commit)?);
        }
        Ok(parts)
    }

    /// The shards that a commit holds.
    pub(crate) fn bases_in(&self, commit: &Commit) -> Result<Vec<Part>, Error> {
        parts_of(&commit.outputs.files)
            .map_err(|error| self.damaged(&commit.shard, error.to_string()))
    }
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
