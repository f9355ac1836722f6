//! Deleting runs that ended long ago.

use std::time::Duration;

use capstan_plan::id::RunId;

use super::Handle;
use super::core::Core;
use crate::error::Error;

/// Maximum number of runs that one request deletes.
const PRUNED: u32 = 1_000;

impl Handle {
    /// Deletes at most 1,000 runs that ended longer ago than `age` from the database, oldest first.
    /// A run of many shards is deleted in several transactions, so that other requests are served in
    /// between. The object store keeps what the runs made; a run that is submitted again finds it.
    ///
    /// Returns the runs, and whether more runs are old enough.
    ///
    /// # Errors
    /// [`Error::Database`]: some runs may be deleted already.
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
            // The deletion returns false if the run was submitted again meanwhile.
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
