//! How far a stage is, and which shards it has given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use capstan_plan::commit::Commit;
use capstan_plan::expand::{Step, Tasks};
use capstan_plan::id::{DeviceKind, ShardId};
use capstan_plan::stage::Stage;

use super::Error;
use super::window::Window;

/// Shards that a reason names.
const NAMED: usize = 3;

/// What is known of a stage that is not done.
#[derive(Default)]
pub(super) struct Progress {
    /// Whether the commits that were in the store are known.
    pub(super) is_listed: bool,
    /// The steps that are over, with their tasks.
    pub(super) steps: Vec<Step>,
    pub(super) tasks: Vec<Arc<Tasks>>,
    /// The step that is worked on.
    pub(super) window: Option<Window>,
    /// Commits whose recipe does not point at them yet.
    pub(super) unpublished: Vec<Commit>,
    pub(super) missing: BTreeMap<ShardId, GivenUp>,
    /// Committed before the window came to them.
    pub(super) early: BTreeSet<ShardId>,
    /// What the stage's models compute on, once it is fixed.
    pub(super) device: Option<DeviceKind>,
}

/// A shard that was given up.
pub(super) struct GivenUp {
    pub(super) said: String,
    /// Whether that ends the run.
    pub(super) is_fatal: bool,
    pub(super) since: Since,
}

/// When a shard was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Before this driver began.
    Before,
    /// Just now: the store was not asked yet whether its commit stands all the same.
    Now,
    /// While this driver runs, and the store has no commit.
    Looked,
}

impl GivenUp {
    /// Before this driver began. What ended the run then is tried again, or was within what may be
    /// missing.
    pub(super) fn earlier(said: String, since: Since) -> Self {
        Self {
            said,
            is_fatal: false,
            since,
        }
    }
}

impl Progress {
    /// Counts a shard that later steps were built without, though this driver did not see that it
    /// was given up.
    pub(super) fn leave_out(&mut self, shard: ShardId) {
        let said = "later steps were built without it".to_owned();
        let given_up = GivenUp::earlier(said, Since::Before);
        self.missing.entry(shard).or_insert(given_up);
    }

    /// Refuses to go on where more shards than `allowed` were given up, of those that `counts`
    /// takes.
    pub(super) fn check(
        &self,
        stage: &Stage,
        allowed: u64,
        counts: impl Fn(&GivenUp) -> bool,
    ) -> Result<(), Error> {
        let missing = self.missing.iter().filter(|(_, given_up)| counts(given_up));
        let missing: Vec<_> = missing.collect();
        let is_fatal = missing.iter().any(|(_, given_up)| given_up.is_fatal);
        if !is_fatal && missing.len() as u64 <= allowed {
            return Ok(());
        }
        let named = missing.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|(shard, given_up)| format!("{shard}: {}", given_up.said))
            .collect();
        let more = match missing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let (stage, shards) = (stage.name.clone(), format!("{}{more}", named.join("; ")));
        Err(if is_fatal {
            Error::Fatal { stage, shards }
        } else {
            Error::Quarantined {
                stage,
                quarantined: missing.len(),
                allowed,
                shards,
            }
        })
    }
}
