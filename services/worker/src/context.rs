//! What every task of a worker may use.

use std::path::PathBuf;

use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_import::Roots;
use capstan_lease::Turns;
use capstan_model::device::DeviceSpec;
use capstan_runtime::fault;

use crate::kept::KeptModels;

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// How it presents itself to the coordinator.
    pub lease: capstan_lease::Options,
    /// Names that the crawler resolves itself, and names that may be private.
    pub net: NetConfig,
    /// Folders that imports and given models may be read from.
    pub import_roots: Vec<PathBuf>,
    /// Folder for local copies of models.
    pub cache: PathBuf,
    /// What models compute on.
    pub device: DeviceSpec,
    /// Threads that a model computes on.
    pub threads: usize,
    /// Turns at the processor.
    pub turns: Turns,
}

/// What a task may use while it runs.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) net: NetConfig,
    pub(crate) import_roots: Roots,
    pub(crate) cache: PathBuf,
    pub(crate) device: DeviceSpec,
    pub(crate) threads: usize,
    pub(crate) turns: Turns,
    pub(crate) models: KeptModels,
    pub(crate) control: capstan_lease::Control,
    pub(crate) seed: u64,
    /// Names folders of this attempt.
    pub(crate) attempt: String,
}

impl Context {
    /// A function to call after every batch with the number of finished units; it returns whether to
    /// continue.
    pub(crate) fn report_progress(&self) -> impl Fn(u64) -> bool + Send + Sync + use<> {
        let control = self.control.clone();
        move |done| {
            control.progress.set(done);
            fault::point("worker.mid_shard");
            !control.cancel.is_cancelled()
        }
    }
}
