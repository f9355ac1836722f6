//! What a finished stage gave, read from its commits and held against what its tasks make.

use std::collections::BTreeMap;

use super::Error;
use crate::commit::{File, FileKind, Outputs, Part, parts_of};
use crate::id::{ShardId, StageName};

/// The commit of a task, which files are read from.
#[derive(Debug, Clone, Copy)]
pub struct CommitOf<'a> {
    /// The stage.
    pub stage: &'a StageName,
    /// The shard.
    pub shard: &'a ShardId,
}

impl CommitOf<'_> {
    /// The shard that was read with the one overlay of this kind among the files of the commit.
    ///
    /// # Errors
    /// [`Error::Commit`]: there is none, or several, or one of another base.
    pub fn overlaid(self, part: Part, kind: FileKind, files: &[File]) -> Result<Part, Error> {
        let mut overlays = files.iter().filter(|file| file.kind == kind);
        let (Some(overlay), None) = (overlays.next(), overlays.next()) else {
            return Err(self.damaged("does not name exactly one overlay"));
        };
        self.with_overlay(part, overlay)
    }

    /// The shard with this overlay.
    ///
    /// # Errors
    /// [`Error::Commit`]: the overlay is aligned with another base.
    pub fn with_overlay(self, mut part: Part, overlay: &File) -> Result<Part, Error> {
        if overlay.base != Some(part.base.digest) {
            let base = part.base.digest;
            return Err(self.damaged(format!("names an overlay of another base than {base}")));
        }
        part.overlays.push(overlay.clone());
        Ok(part)
    }

    /// The shards that the files of the commit form.
    ///
    /// # Errors
    /// [`Error::Commit`]: pixels are missing or not aligned with their base.
    pub fn bases(self, files: &[File]) -> Result<Vec<Part>, Error> {
        parts_of(files).map_err(|error| self.damaged(error.to_string()))
    }

    /// The error of a commit that names as many overlays as it should not.
    pub fn overlay_count(self, found: u64, wanted: u64) -> Error {
        self.damaged(format!("names {found} overlays for {wanted} shards"))
    }

    fn damaged(self, reason: impl Into<String>) -> Error {
        Error::Commit {
            stage: self.stage.clone(),
            shard: self.shard.clone(),
            reason: reason.into(),
        }
    }
}

/// Name of the count of all rejects.
const REJECTED: &str = "rejected";

/// Adds up the counts of commits by name.
///
/// `rejected` and `rejected.<code>` are taken from the rejects by code alone: a commit's own count
/// `rejected` says the same once more, and in commits of earlier versions that of the pictures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums(BTreeMap<String, u64>);

impl Sums {
    /// Adds the counts of a commit.
    pub fn add(&mut self, outputs: &Outputs) {
        for (name, count) in &outputs.counts {
            let is_counted_by_code = name == REJECTED;
            self.add_count(name, if is_counted_by_code { 0 } else { *count });
        }
        for (code, count) in &outputs.rejects {
            self.add_count(REJECTED, *count);
            self.add_count(&format!("{REJECTED}.{}", code.as_str()), *count);
        }
    }

    /// Adds the rows of a shard of the dataset that the stage gave.
    pub fn add_shard(&mut self, part: &Part) {
        self.add_count("rows", part.base.rows);
    }

    fn add_count(&mut self, name: &str, count: u64) {
        match self.0.get_mut(name) {
            Some(sum) => *sum += count,
            None => {
                self.0.insert(name.to_owned(), count);
            }
        }
    }

    /// The sums. That of rows is there for every dataset, also for one without shards.
    pub fn finish(mut self, is_dataset: bool) -> BTreeMap<String, u64> {
        if is_dataset {
            self.add_count("rows", 0);
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_counts<'a>(outputs: impl IntoIterator<Item = &'a Outputs>) -> BTreeMap<String, u64> {
        let mut sums = Sums::default();
        outputs.into_iter().for_each(|outputs| sums.add(outputs));
        sums.finish(false)
    }
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
