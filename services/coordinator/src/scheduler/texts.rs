//! The JSON of open tasks.
//!
//! A grant carries the JSON of its task. The database has it too, where a coordinator that was started
//! again reads it; a read for each grant would cost more than the lease itself.

use std::collections::HashMap;
use std::sync::Arc;

use capstan_plan::id::RunId;

use crate::machine::Key;

/// Bytes of JSON in memory. That of further tasks is read from the database.
const MAX_BYTES: usize = 64 << 20;

/// The JSON of tasks that are not final.
#[derive(Debug, Default)]
pub(super) struct TaskTexts {
    texts: HashMap<Key, Arc<str>>,
    bytes: usize,
}

impl TaskTexts {
    /// Keeps the JSON of a new task while there is room.
    pub(super) fn keep(&mut self, key: &Key, json: &str) {
        if self.bytes + json.len() > MAX_BYTES {
            return;
        }
        self.bytes += json.len();
        if let Some(earlier) = self.texts.insert(key.clone(), json.into()) {
            self.bytes -= earlier.len();
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<str>> {
        self.texts.get(key).cloned()
    }

    /// Forgets a task that is final.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(json) = self.texts.remove(key) {
            self.bytes -= json.len();
        }
    }

    /// Forgets the tasks of a run that has ended.
    pub(super) fn remove_run(&mut self, run: &RunId) {
        self.texts.retain(|key, json| {
            let stays = key.run != *run;
            if !stays {
                self.bytes -= json.len();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run: &str, shard: &str) -> Key {
        Key {
            run: run.into(),
            stage: "stage".into(),
            shard: shard.into(),
        }
    }

    #[test]
    fn tasks_leave_memory_when_they_or_their_run_end() {
        let mut texts = TaskTexts::default();
        for (run, shard) in [("a", "0"), ("a", "1"), ("b", "0")] {
            texts.keep(&key(run, shard), "{\"x\": 1}");
        }
        texts.keep(&key("a", "1"), "{}");
        assert_eq!(texts.get(&key("a", "1")).as_deref(), Some("{}"));
        texts.remove(&key("a", "0"));
        texts.remove(&key("a", "0"));
        assert_eq!(texts.bytes, 10);
        texts.remove_run(&"a".into());
        assert_eq!((texts.texts.len(), texts.bytes), (1, 8));
    }

    #[test]
    fn memory_is_bounded() {
        let mut texts = TaskTexts::default();
        let long = "x".repeat(MAX_BYTES / 2);
        for shard in ["0", "1", "2"] {
            texts.keep(&key("a", shard), &long);
        }
        assert_eq!(texts.bytes, MAX_BYTES);
        assert_eq!(texts.get(&key("a", "2")), None);
    }
}
