//! Models that stay loaded from one shard to the next.
//!
//! Shards of one stage come one after another and name the same model, so it is read once. Tasks that
//! run at the same time share it. A worker keeps one captioner and one filter; a model that no task
//! has used for [`UNUSED`] leaves memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_capfilt::{Captioner, Filter};
use capstan_plan::id::ModelDigest;
use tokio::time::Instant;

/// How long a model stays in memory without a task.
const UNUSED: Duration = Duration::from_secs(60);

/// The models of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptModels {
    pub(crate) captioner: Kept<Captioner>,
    pub(crate) filter: Kept<Filter>,
}

impl KeptModels {
    /// Removes models that no task uses. Never returns.
    pub(crate) async fn remove_unused(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(UNUSED / 4).await;
            self.captioner.remove_unused();
            self.filter.remove_unused();
        }
    }
}

/// At most one model.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    model: Arc<Mutex<Option<Model<T>>>>,
}

#[derive(Debug)]
struct Model<T> {
    digest: ModelDigest,
    loaded: Arc<T>,
    /// When a task was last seen with it.
    used: Instant,
}

impl<T> Kept<T> {
    /// The model of this digest, read with `load` if it is not the one that is kept. Blocks while
    /// another task reads a model, so that two tasks of one stage read it once.
    ///
    /// # Errors
    /// Those of `load`; nothing is kept then.
    pub(crate) fn get<E>(
        &self,
        digest: ModelDigest,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut kept = self.lock();
        if let Some(model) = kept.as_mut().filter(|model| model.digest == digest) {
            model.used = Instant::now();
            return Ok(model.loaded.clone());
        }
        // The earlier model leaves memory first, unless a task still uses it.
        *kept = None;
        let loaded = Arc::new(load()?);
        *kept = Some(Model {
            digest,
            loaded: loaded.clone(),
            used: Instant::now(),
        });
        Ok(loaded)
    }

    fn remove_unused(&self) {
        // A task that reads a model holds the lock; the next round looks again.
        let Ok(mut kept) = self.model.try_lock() else {
            return;
        };
        let Some(model) = kept.as_mut() else {
            return;
        };
        if Arc::strong_count(&model.loaded) > 1 {
            model.used = Instant::now();
        } else if model.used.elapsed() >= UNUSED {
            *kept = None;
        }
    }

    /// A task that panicked while it read a model left nothing here.
    fn lock(&self) -> MutexGuard<'_, Option<Model<T>>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            model: Arc::default(),
        }
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use capstan_plan::id::Digest;

    use super::*;

    fn digest(name: &str) -> ModelDigest {
        ModelDigest(Digest::of(name.as_bytes()))
    }

    fn get(kept: &Kept<String>, name: &str, reads: &mut usize) -> Arc<String> {
        let load = || {
            *reads += 1;
            Ok::<_, std::convert::Infallible>(name.to_owned())
        };
        kept.get(digest(name), load).unwrap()
    }

    #[test]
    fn the_model_of_the_last_task_is_read_once() {
        let (kept, mut reads) = (Kept::default(), 0);
        let first = get(&kept, "a", &mut reads);
        let second = get(&kept, "a", &mut reads);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(reads, 1);
        assert_eq!(*get(&kept, "b", &mut reads), "b");
        assert_eq!(*get(&kept, "a", &mut reads), "a");
        assert_eq!(reads, 3);
    }

    #[test]
    fn only_one_model_is_kept() {
        let (kept, mut reads) = (Kept::default(), 0);
        let first = Arc::downgrade(&get(&kept, "a", &mut reads));
        assert!(first.upgrade().is_some());
        get(&kept, "b", &mut reads);
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn a_model_that_cannot_be_read_is_not_kept() {
        let (kept, mut reads) = (Kept::default(), 0);
        assert_eq!(
            kept.get(digest("a"), || Err::<String, _>("damaged")),
            Err("damaged")
        );
        get(&kept, "a", &mut reads);
        assert_eq!(reads, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_without_a_task_leaves_memory() {
        let (kept, mut reads) = (Kept::default(), 0);
        let used = get(&kept, "a", &mut reads);
        tokio::time::advance(UNUSED * 2).await;
        kept.remove_unused();
        let first = Arc::downgrade(&used);
        drop(used);
        tokio::time::advance(UNUSED / 2).await;
        kept.remove_unused();
        assert!(first.upgrade().is_some());
        tokio::time::advance(UNUSED / 2).await;
        kept.remove_unused();
        assert!(first.upgrade().is_none());
    }
}
