//! `capstan coordinator`, `worker` and `trainer`: one role of a cluster as a process.
//!
//! ```text
//! configuration (checked) ─► bind ─► store answers ─► announce ─► role::run ─► signal, graceful stop
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use capstan_runtime::{Config, shutdown, telemetry};
use capstan_worker::Turns;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::write_whole;
use crate::settings::Settings;
use crate::{hosts, roles, store};

/// Runs the coordinator until a signal.
///
/// # Errors
/// Configuration; unavailable, where the port is taken, or the store or the database cannot be
/// used.
pub fn coordinator(args: &args::Coordinator, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let ready = Ready::new("coordinator", &args.ready)?;
    process(&config, async |shutdown| {
        let listen = config.coordinator.listen;
        let listener = bind(listen, "[coordinator] listen").await?;
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let bound = listener.local_addr().or_exit(Exit::Unavailable)?;
        ready.announce(&Announcement::listening(bound))?;
        let settings = config.coordinator.clone();
        capstan_coordinator::run(settings, listener, store, shutdown)
            .await
            .or_exit(Exit::Unavailable)
    })
}

/// Runs a worker until a signal.
///
/// # Errors
/// Configuration; unavailable, where the store or the coordinator stays away.
pub fn worker(args: &args::Worker, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let device = roles::device(&config)?;
    let ready = Ready::new("worker", &args.ready)?;
    process(&config, async |shutdown| {
        let Some(net) = unless(&shutdown, hosts::net(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let settings = &config.worker;
        let store = store::cached(store, &settings.cache_folder, settings.cache_bytes)?;
        let name = roles::name(&settings.name, "worker");
        let threads = match settings.threads {
            0 => roles::cores(),
            threads => threads,
        };
        ready.announce(&Announcement::named(&name.to_string()))?;
        let address = &config.coordinator.address;
        let turns = Turns::unbounded();
        let options = roles::worker(&config, address, name, device, &net, threads, turns);
        roles::ended(capstan_worker::run(options, store, shutdown).await)
    })
}

/// Runs a trainer until a signal.
///
/// # Errors
/// As [`worker`]; unavailable too, where the port for the ring is taken.
pub fn trainer(args: &args::Trainer, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load_with(args.overrides())?;
    let device = roles::device(&config)?;
    let ready = Ready::new("trainer", &args.ready)?;
    process(&config, async |shutdown| {
        let settings = &config.trainer;
        // A rank listens while its gang trains; that the port is free is found out now.
        drop(bind(settings.listen, "[trainer] listen").await?);
        let Some(advertise) = unless(&shutdown, hosts::advertised(&config)).await? else {
            return Ok(());
        };
        let Some(store) = store::await_store(&config, &shutdown).await? else {
            return Ok(());
        };
        let store = store::cached(store, &settings.cache_folder, settings.cache_bytes)?;
        let name = roles::name(&settings.name, "trainer");
        ready.announce(&Announcement::named(&name.to_string()))?;
        let address = &config.coordinator.address;
        let turns = Turns::unbounded();
        let options = roles::trainer(&config, address, name, device, advertise, &turns);
        roles::ended(capstan_trainer::run(options, store, shutdown).await)
    })
}

/// Runs a role with logs and signals: the first SIGTERM or SIGINT cancels its token, the second
/// one ends the process.
///
/// # Errors
/// The role's own; configuration for logs that cannot be set up.
pub fn process(
    config: &Config,
    role: impl AsyncFnOnce(CancellationToken) -> Result<(), ExpectedError>,
) -> Result<(), ExpectedError> {
    telemetry::init(&config.telemetry).or_exit(Exit::Configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(roles::cores().max(2))
        .enable_all()
        .build()
        .or_exit(Exit::RunFailed)?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown::on_signals().or_exit(Exit::RunFailed)?;
        role(shutdown).await
    });
    // Work that was dropped may still block a thread; a process that stops waits for none.
    runtime.shutdown_background();
    ended
}

/// The value, or `None` where `shutdown` came first.
pub async fn unless<T>(
    shutdown: &CancellationToken,
    work: impl Future<Output = Result<T, ExpectedError>>,
) -> Result<Option<T>, ExpectedError> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(None),
        done = work => done.map(Some),
    }
}

/// Binds a listener.
///
/// - `setting`: names where the address is configured.
///
/// # Errors
/// Unavailable, naming address and setting.
pub async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, ExpectedError> {
    TcpListener::bind(address).await.map_err(|error| {
        let mend = match error.kind() {
            std::io::ErrorKind::AddrInUse => "stop what has the port, or choose another one",
            _ => "choose an address of this machine",
        };
        let line = format!("{setting}: cannot listen on {address}: {error}; {mend}");
        ExpectedError::new(Exit::Unavailable, line)
    })
}

/// Tells people (a log line) and programs (a file) that a role listens.
pub struct Ready {
    role: &'static str,
    file: Option<PathBuf>,
}

/// What is told. A role without a listener of its own has only a name.
#[derive(Debug, Default, Serialize)]
pub struct Announcement {
    /// Where it listens, with the port that was bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// How it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Announcement {
    /// A role that listens.
    pub fn listening(listen: SocketAddr) -> Self {
        Self {
            listen: Some(listen),
            ..Self::default()
        }
    }

    fn named(name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::default()
        }
    }
}

impl Ready {
    /// Takes away a file that an earlier process left: it must not be taken for this one's.
    ///
    /// # Errors
    /// Usage, where it cannot be taken away.
    pub fn new(role: &'static str, args: &args::Ready) -> Result<Self, ExpectedError> {
        Self::at(role, args.ready_file.as_deref())
    }

    /// As [`Ready::new`], for a role with flags of its own.
    ///
    /// # Errors
    /// As [`Ready::new`].
    pub fn at(role: &'static str, file: Option<&Path>) -> Result<Self, ExpectedError> {
        if let Some(file) = file {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let line = format!("--ready-file {}: {error}", file.display());
                    return Err(ExpectedError::new(Exit::Usage, line));
                }
                _ => {}
            }
        }
        Ok(Self {
            role,
            file: file.map(Path::to_owned),
        })
    }

    /// Tells it.
    ///
    /// # Errors
    /// Run failed, where the file cannot be written.
    pub fn announce(&self, told: &impl Serialize) -> Result<(), ExpectedError> {
        #[derive(Serialize)]
        struct Told<'a, T> {
            role: &'a str,
            #[serde(flatten)]
            told: &'a T,
        }
        let told = Told {
            role: self.role,
            told,
        };
        let text = serde_json::to_string(&told).or_exit(Exit::RunFailed)?;
        tracing::info!(role = self.role, announced = %text, "ready");
        match &self.file {
            Some(file) => write_whole(file, text.as_bytes()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, "[coordinator] listen").await.unwrap_err();
        assert_eq!(error.exit(), Exit::Unavailable);
        let line = error.to_string();
        assert!(line.contains("[coordinator] listen"), "{line}");
        assert!(line.contains(&address.to_string()), "{line}");
    }

    #[test]
    fn what_an_earlier_process_left_is_not_taken_for_ready() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("ready.json");
        std::fs::write(&file, "old").unwrap();
        let ready = Ready::at("coordinator", Some(&file)).unwrap();
        assert!(!file.exists());
        let listen = "127.0.0.1:7400".parse().unwrap();
        ready.announce(&Announcement::listening(listen)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, r#"{"role":"coordinator","listen":"127.0.0.1:7400"}"#);
    }
}
