//! How far a stage is.

use std::collections::BTreeSet;
use std::sync::Arc;

use capstan_plan::commit::Commit;
use capstan_plan::expand::{Step, Tasks};
use capstan_plan::id::{DeviceKind, ShardId};

use super::window::Window;

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
    /// Shards that were given up, and the store was not asked yet whether their commits stand all the
    /// same.
    pub(super) unlooked: Vec<ShardId>,
    /// Committed before the window came to them.
    pub(super) early: BTreeSet<ShardId>,
    /// What the stage's models compute on, once it is fixed.
    pub(super) device: Option<DeviceKind>,
}
