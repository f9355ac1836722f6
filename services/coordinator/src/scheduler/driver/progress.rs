//! The progress of a stage.

use std::collections::BTreeSet;
use std::sync::Arc;

use capstan_plan::commit::Commit;
use capstan_plan::expand::{Step, Tasks};
use capstan_plan::id::{DeviceKind, ShardId};

use super::window::Window;

/// The state of a stage that is not done.
#[derive(Default)]
pub(super) struct Progress {
    /// Whether the commits of the store were listed.
    pub(super) is_listed: bool,
    /// The finished steps, and the tasks of each.
    pub(super) steps: Vec<Step>,
    pub(super) tasks: Vec<Arc<Tasks>>,
    /// The current step.
    pub(super) window: Option<Window>,
    /// Commits without a published recipe.
    pub(super) unpublished: Vec<Commit>,
    /// Shards that were given up and whose commits were not looked up in the store yet.
    pub(super) unchecked: Vec<ShardId>,
    /// Shards that were committed before the window reached them.
    pub(super) early: BTreeSet<ShardId>,
    /// The device kind of the stage, once it is fixed.
    pub(super) device: Option<DeviceKind>,
}
