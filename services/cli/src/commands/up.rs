//! `capstan up`: the whole system on this machine, waiting for work.

use crate::args;
use crate::commands::role::{Announcement, Ready, bind, process, unless};
use crate::error::{Exit, ExpectedError, OrExit};
use crate::settings::Settings;
use crate::system::{Sizes, System};
use crate::{hosts, roles, store};

/// Keeps coordinator, workers and trainers until a signal.
///
/// # Errors
/// Configuration; unavailable, where the port is taken, or the store or the database cannot be
/// used.
pub fn run(args: &args::Up, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let device = roles::device(&config)?;
    let ready = Ready::new("up", &args.ready)?;
    let sizes = Sizes {
        workers: args.workers.into(),
        trainers: args.trainers.into(),
    };
    process(&config, async |shutdown| {
        let listener = bind(config.coordinator.listen, "[coordinator] listen").await?;
        let bound = listener.local_addr().or_exit(Exit::Unavailable)?;
        let Some(net) = unless(&shutdown, hosts::net(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let cache = &config.worker;
        let store = store::cached(store, &cache.cache_folder, cache.cache_bytes)?;
        let system = System::start(&config, sizes, &store, listener, &net, device, shutdown)?;
        ready.announce(&Announcement::listening(bound))?;
        system.stopped().await
    })
}
