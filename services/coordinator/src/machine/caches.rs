//! Base files: which workers have them cached, and which ready tasks read them.
//!
//! Each worker has an index of the ready tasks whose base file it has cached, so that the oldest one is
//! found without a scan of its cache.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use capstan_plan::id::{Digest, WorkerId};

use super::Ordinal;
use super::queues::RunNumber;

/// A ready task in the index of a worker, ordered by run, then by age.
type Near = (RunNumber, Ordinal);

/// Base files by worker and by task.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// The workers that have a base file cached. No set is empty.
    holders: HashMap<Digest, BTreeSet<WorkerId>>,
    /// Ready tasks by the first eight bytes of the digest of their base file, to keep entries small.
    /// The caller compares the full digest.
    readers: BTreeSet<(u64, Ordinal)>,
    /// Ready tasks whose base file a worker has cached. No set is empty.
    near: HashMap<WorkerId, BTreeSet<Near>>,
}

impl Caches {
    /// Adds a ready task that reads this base file.
    pub(super) fn enter(&mut self, base: &Digest, run: RunNumber, ordinal: Ordinal) {
        self.readers.insert((base.prefix_u64(), ordinal));
        for holder in self.holders.get(base).into_iter().flatten() {
            match self.near.get_mut(holder) {
                Some(near) => near.insert((run, ordinal)),
                None => {
                    let near = BTreeSet::from([(run, ordinal)]);
                    self.near.insert(holder.clone(), near).is_none()
                }
            };
        }
    }

    /// Removes a task that reads this base file and is no longer ready.
    pub(super) fn leave(&mut self, base: &Digest, run: RunNumber, ordinal: Ordinal) {
        self.readers.remove(&(base.prefix_u64(), ordinal));
        for holder in self.holders.get(base).into_iter().flatten() {
            leave(&mut self.near, holder, (run, ordinal));
        }
    }

    /// Ready tasks whose base file's digest has the same first bytes, oldest first.
    pub(super) fn readers(&self, base: &Digest) -> impl Iterator<Item = Ordinal> + '_ {
        let prefix = base.prefix_u64();
        let readers = self.readers.range((prefix, 0)..=(prefix, Ordinal::MAX));
        readers.map(|(_, ordinal)| *ordinal)
    }

    /// Records that a worker has this base file.
    ///
    /// - `tasks`: the ready tasks that read it.
    pub(super) fn hold(&mut self, worker: &WorkerId, base: &Digest, tasks: Vec<Near>) {
        let holders = self.holders.entry(*base).or_default();
        holders.insert(worker.clone());
        if !tasks.is_empty() {
            self.near.entry(worker.clone()).or_default().extend(tasks);
        }
    }

    /// Records that a worker no longer has this base file.
    ///
    /// - `tasks`: the ready tasks that read it.
    pub(super) fn release(&mut self, worker: &WorkerId, base: &Digest, tasks: Vec<Near>) {
        if let Some(holders) = self.holders.get_mut(base) {
            holders.remove(worker);
            if holders.is_empty() {
                self.holders.remove(base);
            }
        }
        for task in tasks {
            leave(&mut self.near, worker, task);
        }
    }

    /// Workers that have a base file cached.
    pub(super) fn holders(&self, base: &Digest) -> impl Iterator<Item = &WorkerId> {
        self.holders.get(base).into_iter().flatten()
    }

    /// Ready tasks of a run whose base file this worker has, older than `before`, oldest first.
    pub(super) fn near(
        &self,
        worker: &WorkerId,
        run: RunNumber,
        before: Ordinal,
    ) -> impl Iterator<Item = Ordinal> {
        let span = (Bound::Included((run, 0)), Bound::Excluded((run, before)));
        let near = self.near.get(worker).into_iter();
        let near = near.flat_map(move |near| near.range(span));
        near.map(|(_, ordinal)| *ordinal)
    }
}

fn leave(near: &mut HashMap<WorkerId, BTreeSet<Near>>, worker: &WorkerId, task: Near) {
    if let Some(tasks) = near.get_mut(worker) {
        tasks.remove(&task);
        if tasks.is_empty() {
            near.remove(worker);
        }
    }
}
