//! The parts that every role process shares: logs, signals, listeners, the ready file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use capstan_plan::id::WorkerId;
use capstan_runtime::{Config, shutdown, telemetry};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::health::Health;
use crate::output::write_whole;
use crate::roles;

/// Threads of a role whose blocking calls are all short: those of a store in a folder.
pub const FEW_BLOCKING: usize = 2;

/// Threads of a role whose tasks block for long, such as computations; the default of tokio.
pub const MANY_BLOCKING: usize = 512;

/// Runs a role with logs and signals. The first SIGTERM or SIGINT cancels its token, the second
/// exits the process.
///
/// - `blocking_threads`: threads at most for calls that block, such as those of a store in a folder. A
///   role with many short ones is faster with few threads: most would only wake up and go to sleep.
///
/// # Errors
/// The role's own; configuration for logs that cannot be set up.
pub fn process(
    config: &Config,
    blocking_threads: usize,
    role: impl AsyncFnOnce(CancellationToken) -> Result<(), ExpectedError>,
) -> Result<(), ExpectedError> {
    telemetry::init(&config.telemetry).or_exit(Exit::Configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(roles::cores().max(2))
        .max_blocking_threads(blocking_threads)
        .enable_all()
        .build()
        .or_exit(Exit::RunFailed)?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown::on_signals().or_exit(Exit::RunFailed)?;
        role(shutdown).await
    });
    // Dropped work may still block a thread. A stopping process does not wait for it.
    runtime.shutdown_background();
    ended
}

/// The value, or `None` if `shutdown` is cancelled first.
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

/// Announces that a role listens: a log line for people, a file for programs.
pub struct Ready {
    role: &'static str,
    file: Option<PathBuf>,
}

/// The content of the announcement. A role without a listener has only a name.
#[derive(Debug, Default, Serialize)]
pub struct Announcement {
    /// The bound address.
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// The address of health and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<SocketAddr>,
    /// The name of the worker or trainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Announcement {
    /// A role with these listeners.
    ///
    /// # Errors
    /// Unavailable, if the system does not report the bound addresses.
    pub fn of(listener: Option<&TcpListener>, health: &Health) -> Result<Self, ExpectedError> {
        let listen = listener.map(TcpListener::local_addr);
        Ok(Self {
            listen: listen.transpose().or_exit(Exit::Unavailable)?,
            health: health.address()?,
            name: None,
        })
    }

    /// A role of this name.
    #[must_use]
    pub fn named(self, name: &WorkerId) -> Self {
        Self {
            name: Some(name.to_string()),
            ..self
        }
    }
}

impl Ready {
    /// Removes the file of an earlier process, so that it is not mistaken for the file of this one.
    ///
    /// # Errors
    /// Usage, if it cannot be removed.
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

    /// Writes the announcement.
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
        let told = Announcement {
            listen: Some("127.0.0.1:7400".parse().unwrap()),
            ..Announcement::default()
        };
        ready.announce(&told).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, r#"{"role":"coordinator","listen":"127.0.0.1:7400"}"#);
    }
}
