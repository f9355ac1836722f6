//! `capstan coordinator`, `worker` and `trainer`: one role of a cluster as a process.
//!
//! ```text
//! configuration (checked) ─► bind ─► store answers ─► announce ─► role::run ─► signal, graceful stop
//! ```

use capstan_lease::Turns;
use capstan_runtime::health::{CONTACT, Readiness};
use capstan_runtime::tls::Role;

use super::process::{Announcement, FEW_BLOCKING, MANY_BLOCKING, Ready, bind, process, unless};
use crate::error::{Exit, ExpectedError, OrExit};
use crate::health::Health;
use crate::roles::Member;
use crate::settings::Settings;
use crate::{access, args, hosts, roles, store};

/// Runs the coordinator until a signal.
///
/// # Errors
/// Configuration; unavailable, where the port is taken, or the store or the database cannot be
/// used, or another coordinator has replaced this one.
pub fn coordinator(args: &args::Coordinator, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let access = access::coordinator(&config)?;
    let ready = Ready::new("coordinator", &args.ready)?;
    process(&config, FEW_BLOCKING, async |shutdown| {
        let listener = bind(config.coordinator.listen, "[coordinator] listen").await?;
        let health = Health::bind(&config).await?;
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let options = capstan_coordinator::Options {
            access,
            readiness: Readiness::lasting(),
        };
        let told = Announcement::of(Some(&listener), &health)?;
        health.serve(vec![("coordinator", options.readiness.clone())]);
        // Ready only once it holds its database and knows its runs.
        let handle = roles::coordinator(&config, &store, &shutdown).await?;
        ready.announce(&told)?;
        capstan_coordinator::serve(handle, options, listener, shutdown)
            .await
            .or_exit(Exit::Unavailable)
    })
}

/// Runs a worker until a signal.
///
/// # Errors
/// Configuration; unavailable, if the store or the coordinator stays unreachable.
pub fn worker(args: &args::Worker, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let member = Member {
        address: &config.coordinator.address,
        name: roles::name(&config.worker.name, "worker"),
        device: roles::device(&config)?,
        identity: access::identity(&config, Role::Worker)?,
        readiness: Readiness::within(CONTACT),
    };
    let ready = Ready::new("worker", &args.ready)?;
    process(&config, MANY_BLOCKING, async |shutdown| {
        let health = Health::bind(&config).await?;
        let Some(net) = unless(&shutdown, hosts::net(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let settings = &config.worker;
        let store = store::cached(store, &settings.cache_folder, settings.cache_bytes)?;
        let threads = match settings.threads {
            0 => roles::cores(),
            threads => threads,
        };
        let told = Announcement::of(None, &health)?.named(&member.name);
        health.serve(vec![("worker", member.readiness.clone())]);
        ready.announce(&told)?;
        let options = roles::worker(&config, member, &net, threads, Turns::unbounded());
        roles::ended(capstan_worker::run(options, store, shutdown).await)
    })
}

/// Runs a trainer until a signal.
///
/// # Errors
/// As [`worker`]; unavailable too, where the port for the ring is taken.
pub fn trainer(args: &args::Trainer, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let member = Member {
        address: &config.coordinator.address,
        name: roles::name(&config.trainer.name, "trainer"),
        device: roles::device(&config)?,
        identity: access::identity(&config, Role::Trainer)?,
        readiness: Readiness::within(CONTACT),
    };
    let ready = Ready::new("trainer", &args.ready)?;
    process(&config, MANY_BLOCKING, async |shutdown| {
        let settings = &config.trainer;
        // A rank listens only while its gang trains. Check now that the port is free.
        drop(bind(settings.listen, "[trainer] listen").await?);
        let health = Health::bind(&config).await?;
        let Some(advertise) = unless(&shutdown, hosts::advertised(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let store = store::cached(store, &settings.cache_folder, settings.cache_bytes)?;
        let told = Announcement::of(None, &health)?.named(&member.name);
        health.serve(vec![("trainer", member.readiness.clone())]);
        ready.announce(&told)?;
        let options = roles::trainer(&config, member, advertise, Turns::unbounded());
        roles::ended(capstan_trainer::run(options, store, shutdown).await)
    })
}
