//! Deleting runs that ended long ago.

use std::time::Duration;

use capstan_plan::id::RunId;

use super::Handle;
use super::core::Core;
use crate::error::Error;

/// Runs that one request deletes at most.
const PRUNED: u32 = 1_000;

impl Handle {
    /// Deletes runs that ended longer ago than `age` from the database, at most 1,000, the oldest first.
    /// A run of many shards is deleted over several transactions, so that others are served in between.
    /// What the runs made stays in the object store, and a run that is submitted again finds it there.
    ///
    /// Gives the runs, and whether further ones are old enough.
    ///
    /// # Errors
    /// [`Error::Database`]; what was deleted before stays deleted.
    pub async fn prune(&self, age: Duration) -> Result<(Vec<RunId>, bool), Error> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = self.inner.clock.unix_ms().saturating_sub(age);
        let database = &self.inner.database;
        let failed = |error| Error::Database(std::sync::Arc::new(error));
        let ended = database.ended_before(before, PRUNED + 1).await;
        let mut ended = ended.map_err(failed)?;
        let more = ended.len() > PRUNED as usize;
        ended.truncate(PRUNED as usize);
        let mut pruned = Vec::with_capacity(ended.len());
        for run in ended {
            let delete = |core: &mut Core| core.prune(&run);
            // Submitted again meanwhile: it goes on.
            while self.inner.change(delete).await? {
                if database.run(&run).await.map_err(failed)?.is_none() {
                    pruned.push(run);
                    break;
                }
            }
        }
        tracing::info!(runs = pruned.len(), "runs pruned");
        Ok((pruned, more))
    }
}
