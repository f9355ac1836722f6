//! From the configuration to the options of a role, for processes, `up` and the demo alike.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use capstan_coordinator::Handle;
use capstan_crawl::NetConfig;
use capstan_dataset::Store;
use capstan_lease::Turns;
use capstan_model::{DeviceSpec, device};
use capstan_plan::clock::SystemClock;
use capstan_plan::id::WorkerId;
use capstan_plan::task::Role;
use capstan_runtime::Config;
use capstan_runtime::health::Readiness;
use capstan_runtime::tls::Identity;
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, ExpectedError, OrExit};

/// The device of the configuration, `auto` resolved.
///
/// # Errors
/// Configuration, if this program or machine has no such device.
pub fn device(config: &Config) -> Result<DeviceSpec, ExpectedError> {
    device_spec(config)?
        .resolve()
        .map_err(|error| wrong_device(&error))
}

/// The device of the configuration as it is written.
///
/// # Errors
/// Configuration, where the text names no device.
pub fn device_spec(config: &Config) -> Result<DeviceSpec, ExpectedError> {
    let spec = config.device.spec.parse();
    spec.map_err(|error| wrong_device(&error))
}

fn wrong_device(error: &device::Error) -> ExpectedError {
    ExpectedError::about(Exit::Configuration, "configuration: [device] spec", error)
}

/// The given name, or one made of role, host and process id: unique among live workers, and
/// readable in logs.
pub fn name(given: &str, role: &str) -> WorkerId {
    if !given.is_empty() {
        return given.into();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other))
        .unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "host" } else { host };
    format!("{role}-{host}-{}", std::process::id()).into()
}

/// Cores of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A coordinator that holds its database and resumes its runs. It does not listen yet.
///
/// # Errors
/// Unavailable: the store or the database cannot be used, or another coordinator has it.
pub async fn coordinator(
    config: &Config,
    store: &Store,
    shutdown: &CancellationToken,
) -> Result<Handle, ExpectedError> {
    let clock = Arc::new(SystemClock::new());
    let settings = config.coordinator.clone();
    Handle::start(settings, store.clone(), clock, shutdown.clone())
        .await
        .or_exit(Exit::Unavailable)
}

/// A worker or trainer as the coordinator sees it.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// URL of the coordinator.
    pub address: &'a str,
    /// Its name.
    pub name: WorkerId,
    /// Its device.
    pub device: DeviceSpec,
    /// Its identity, if certificates are configured.
    pub identity: Option<Identity>,
    /// Marked whenever the coordinator answers.
    pub readiness: Readiness,
}

/// The options of a worker.
///
/// - `threads`: number of compute threads of a model.
pub fn worker(
    config: &Config,
    member: Member<'_>,
    net: &NetConfig,
    threads: usize,
    turns: Turns,
) -> capstan_worker::Options {
    let settings = &config.worker;
    let device = member.device;
    let roles = settings.roles.clone();
    capstan_worker::Options {
        lease: capstan_lease::Options {
            slots: settings.slots as usize,
            ..lease(
                config,
                member,
                roles,
                settings.patience_seconds,
                settings.grace_seconds,
            )
        },
        net: net.clone(),
        import_roots: config.import.roots.clone(),
        cache: settings.cache_folder.clone(),
        device,
        threads,
        turns,
    }
}

/// The options of a trainer.
///
/// - `advertise`: the address at which other ranks reach it, if it differs from the bound one.
pub fn trainer(
    config: &Config,
    member: Member<'_>,
    advertise: Option<SocketAddr>,
    turns: Turns,
) -> capstan_trainer::Options {
    let settings = &config.trainer;
    let device = member.device;
    let roles = vec![Role::Train];
    capstan_trainer::Options {
        lease: lease(
            config,
            member,
            roles,
            settings.patience_seconds,
            settings.grace_seconds,
        ),
        listen: settings.listen,
        advertise,
        ring_timeout: Duration::from_secs(settings.ring_timeout_seconds),
        cache: settings.cache_folder.clone(),
        metrics: settings.metrics_folder.clone(),
        picture_bytes: settings.picture_bytes,
        device,
        turns,
    }
}

fn lease(
    config: &Config,
    member: Member<'_>,
    roles: Vec<Role>,
    patience_seconds: u64,
    grace_seconds: u64,
) -> capstan_lease::Options {
    capstan_lease::Options {
        coordinator: member.address.to_owned(),
        worker: member.name,
        roles,
        slots: 1,
        // A device that was opened has a kind; its own name would match no recipe.
        device: member
            .device
            .kind()
            .unwrap_or_else(|_| member.device.to_string()),
        heartbeat: Duration::from_secs(config.coordinator.heartbeat_seconds),
        poll: Duration::from_secs(config.coordinator.poll_seconds),
        patience: Duration::from_secs(patience_seconds),
        grace: Duration::from_secs(grace_seconds),
        identity: member.identity,
        readiness: member.readiness,
    }
}

/// The error of a worker or trainer, with its exit code.
pub fn ended(outcome: Result<(), capstan_lease::Error>) -> Result<(), ExpectedError> {
    outcome.map_err(|error| {
        let exit = match &error {
            capstan_lease::Error::Refused(_)
            | capstan_lease::Error::NameTaken { .. }
            | capstan_lease::Error::Certificate { .. }
            | capstan_lease::Error::Address { .. } => Exit::Configuration,
            // A bug of the program.
            capstan_lease::Error::Panicked(_) => Exit::RunFailed,
            _ => Exit::Unavailable,
        };
        ExpectedError::from_error(exit, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicked_worker_is_not_a_configuration_error() {
        let refused = capstan_lease::Error::Refused("another version".to_owned());
        let error = ended(Err(refused)).unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration);
        let taken = capstan_lease::Error::NameTaken {
            waited: Duration::from_secs(300),
            reason: "another process uses the worker name `w`".to_owned(),
        };
        let error = ended(Err(taken)).unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration);
        let broke = capstan_lease::Error::Panicked("no such index".to_owned());
        let error = ended(Err(broke)).unwrap_err();
        assert_eq!(error.exit(), Exit::RunFailed);
        assert!(error.to_string().contains("no such index"), "{error}");
    }
}
