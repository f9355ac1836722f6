//! Settings of stages, kept for the next task of the same stage.

use std::sync::Arc;

use capstan_dataset::{Store, settings};
use capstan_plan::id::Digest;
use capstan_plan::stage::Kind;
use capstan_plan::task::Task;
use tokio::sync::Mutex;

/// Stages whose settings are kept. A worker has tasks of a few stages at a time.
const KEPT: usize = 8;

/// The settings that were used last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct SettingsCache(Mutex<Vec<(Digest, Arc<Kind>)>>);

impl SettingsCache {
    /// The settings of a task's stage.
    ///
    /// # Errors
    /// Those of [`settings::get`].
    pub(crate) async fn of(
        &self,
        store: &Store,
        task: &Task,
    ) -> Result<Arc<Kind>, capstan_dataset::Error> {
        // Held while they are read, so that slots of one worker read them once.
        let mut kept = self.0.lock().await;
        let found = kept.iter().position(|(digest, _)| *digest == task.settings);
        let entry = match found {
            Some(place) => kept.remove(place),
            None => {
                let kind = settings::get(store, &task.settings).await?;
                (task.settings, Arc::new(kind))
            }
        };
        let kind = entry.1.clone();
        kept.push(entry);
        if kept.len() > KEPT {
            kept.remove(0);
        }
        Ok(kind)
    }
}
