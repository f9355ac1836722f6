//! What a finished stage gave, read from its commits and held against what its tasks make.

use std::collections::BTreeMap;

use super::{Done, Error, Expansion, Given, Step};
use crate::commit::{Commit, File, FileKind, Part, VersionRef};
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
    pub(crate) fn bases(&self, tasks: &[Task]) -> Vec<Part> {
        self.commits_of(tasks).flat_map(Self::bases_in).collect()
    }

    /// The shards that a commit holds.
    pub(crate) fn bases_in(commit: &Commit) -> Vec<Part> {
        let files = commit.outputs.files.iter();
        let bases = files.filter(|file| file.kind == FileKind::Base);
        bases
            .map(|base| Part {
                base: base.clone(),
                overlays: Vec::new(),
            })
            .collect()
    }
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
