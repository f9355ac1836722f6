//! The latest list of cached base files of each worker.
//!
//! A list has up to 1,000 digests and changes rarely, while a worker requests tasks many times a second.
//! So the worker sends the list once, and afterwards only its tag.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use capstan_plan::id::{Digest, WorkerId};

/// Maximum number of digests in a list. Further ones are ignored.
const DIGESTS: usize = 1_000;
/// Maximum number of workers whose lists are kept. Beyond it all lists are dropped, and sent again.
const WORKERS: usize = 10_000;

type List = Arc<BTreeSet<Digest>>;

/// Lists by worker, each with its tag.
#[derive(Debug, Default)]
pub(crate) struct CachedLists(Mutex<HashMap<WorkerId, (u64, List)>>);

impl CachedLists {
    /// The list of a request; `None` if the request has only a tag, and the tag is unknown.
    pub(crate) fn of(&self, worker: &WorkerId, tag: u64, given: &[String]) -> Option<List> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tag != 0 && given.is_empty() {
            let known = lists.get(worker).filter(|(known, _)| *known == tag);
            return known.map(|(_, list)| list.clone());
        }
        let digests = given.iter().take(DIGESTS);
        let list: List = Arc::new(digests.filter_map(|hex| Digest::from_hex(hex)).collect());
        if tag != 0 {
            if lists.len() >= WORKERS && !lists.contains_key(worker) {
                lists.clear();
            }
            lists.insert(worker.clone(), (tag, list.clone()));
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_represents_the_list_that_was_sent_with_it() {
        let lists = CachedLists::default();
        let worker = WorkerId::from("w");
        let digest = Digest::of(b"base");
        let sent = [digest.to_string(), "no digest".to_owned()];
        assert_eq!(lists.of(&worker, 7, &[]), None);
        let list = lists.of(&worker, 7, &sent).unwrap();
        assert_eq!(*list, BTreeSet::from([digest]));
        assert_eq!(lists.of(&worker, 7, &[]), Some(list));
        assert_eq!(lists.of(&worker, 8, &[]), None, "another list");
        assert_eq!(lists.of(&"other".into(), 7, &[]), None, "another worker");
        let none = lists.of(&"untagged".into(), 0, &[]).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn lists_of_many_workers_are_dropped_together() {
        let lists = CachedLists::default();
        for worker in 0..=WORKERS {
            let worker = WorkerId::from(format!("w{worker}"));
            lists.of(&worker, 7, &[Digest::of(b"base").to_string()]);
        }
        assert_eq!(lists.0.lock().unwrap().len(), 1);
    }
}
