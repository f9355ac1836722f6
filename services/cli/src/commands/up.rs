//! `capstan up`: the whole system on this machine, until a signal.

use capstan_runtime::tls::Role;

use super::process::{Announcement, MANY_BLOCKING, Ready, bind, process, unless};
use crate::error::ExpectedError;
use crate::health::Health;
use crate::settings::Settings;
use crate::system::{Setup, System};
use crate::{access, args, hosts, roles, store};

/// Runs coordinator, workers and trainers until a signal.
///
/// # Errors
/// Configuration; unavailable, where the port is taken, or the store or the database cannot be
/// used.
pub fn run(args: &args::Up, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let setup = Setup {
        config: &config,
        workers: args.workers.into(),
        trainers: args.trainers.into(),
        device: roles::device(&config)?,
        outage_limit: None,
        access: access::coordinator(&config)?,
        worker: access::identity(&config, Role::Worker)?,
        trainer: access::identity(&config, Role::Trainer)?,
    };
    let ready = Ready::new("up", &args.ready)?;
    process(&config, MANY_BLOCKING, async |shutdown| {
        let listener = bind(config.coordinator.listen, "[coordinator] listen").await?;
        let health = Health::bind(&config).await?;
        let Some(net) = unless(&shutdown, hosts::net(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let cache = &config.worker;
        let store = store::cached(store, &cache.cache_folder, cache.cache_bytes)?;
        let told = Announcement::of(Some(&listener), &health)?;
        let system = System::start(setup, &store, listener, &net, shutdown).await?;
        health.serve(system.readiness());
        ready.announce(&told)?;
        system.stopped().await
    })
}
