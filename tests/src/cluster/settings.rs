//! Settings of a test cluster: store, certificates, places, and the TOML file of all roles.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{capstan, small_world, succeed};
use crate::place::Place;

/// Ports below the range of ephemeral ports. A worker that connects while the coordinator restarts
/// cannot get the coordinator's port as its own local port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Settings of a test cluster.
pub struct Setup {
    /// Folder of logs, databases and caches.
    pub folder: PathBuf,
    /// URL of the store.
    pub store: String,
    /// Environment variables that open the store.
    pub variables: Vec<(String, String)>,
    /// Whether roles use certificates and a token.
    pub secure: bool,
    /// World file of the demo web.
    pub world: PathBuf,
    /// Limit for a run on a busy machine.
    pub limit: Duration,
    /// Lease period without a heartbeat; heartbeats are sent every second.
    pub lease_seconds: u64,
    /// Time in which stopped workers and trainers may finish their tasks.
    pub grace_seconds: u64,
    /// Place of the role with this name.
    pub places: Box<dyn Fn(&str) -> Place>,
}

impl Setup {
    /// A cluster on loopback over a folder, without certificates.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            store: folder.join("store").display().to_string(),
            variables: Vec::new(),
            secure: false,
            world: small_world(),
            limit: Duration::from_secs(300),
            lease_seconds: 3,
            grace_seconds: 10,
            places: Box::new(|_| Place::default()),
        }
    }

    pub(super) fn place(&self, name: &str) -> Place {
        (self.places)(name)
    }

    /// The import root, in which the demo web writes its annotated sets.
    pub(super) fn annotations(&self) -> PathBuf {
        self.folder.join("annotations")
    }

    fn certificates(&self, role: &str) -> PathBuf {
        self.folder.join("certificates").join(role)
    }

    fn authority(&self) -> PathBuf {
        self.folder.join("authority")
    }

    /// Creates certificates and copies each role's files to the role's own folder.
    pub(super) fn lay_out_certificates(&self) {
        if !self.secure {
            return;
        }
        let from = self.authority();
        succeed(capstan(["certs", "--out"]).arg(&from));
        for role in ["coordinator", "worker", "trainer", "operator"] {
            let to = self.certificates(role);
            std::fs::create_dir_all(&to).unwrap();
            for file in ["ca.pem", &format!("{role}.pem"), &format!("{role}.key")] {
                std::fs::copy(from.join(file), to.join(file)).unwrap();
            }
        }
    }

    /// Environment variables with the certificates and the token of a role.
    pub(super) fn credentials(&self, role: &str) -> Vec<(String, String)> {
        if !self.secure {
            return Vec::new();
        }
        let variable = |key: &str, path: PathBuf| {
            let name = format!("CAPSTAN__SAFETY__{key}");
            (name, path.display().to_string())
        };
        let mut shown = vec![variable("CERTIFICATES", self.certificates(role))];
        if matches!(role, "coordinator" | "operator") {
            shown.push(variable("TOKEN_FILE", self.authority().join("token")));
        }
        shown
    }

    /// Writes the TOML file.
    ///
    /// - `hosts`: addresses of the demo web's hosts by name.
    pub(super) fn write_config(&self, port: u16, hosts: &Value) -> PathBuf {
        let scheme = if self.secure { "https" } else { "http" };
        let address = self.place("coordinator").address;
        let (folder, store) = (self.folder.display(), &self.store);
        let (lease, grace) = (self.lease_seconds, self.grace_seconds);
        let hosts = hosts.as_object().expect("hosts by name");
        let names: Vec<_> = hosts.keys().map(|name| format!("\"{name}\"")).collect();
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(name, at)| format!("\"{name}\" = {at}"))
            .collect();
        let (hosts, names) = (hosts.join(", "), names.join(", "));
        let annotations = self.annotations();
        let text = format!(
            r#"
[store]
url = "{store}"
[coordinator]
address = "{scheme}://{address}:{port}"
database = "sqlite:{folder}/state.db"
lease_seconds = {lease}
heartbeat_seconds = 1
poll_seconds = 2
# Tests kill one process many times, and the same task may be affected each time.
max_attempts = 12
backoff_ms = 100
max_backoff_ms = 400
ring_join_seconds = 20
[worker]
threads = 1
grace_seconds = {grace}
patience_seconds = 120
[trainer]
# How long a rank waits for a rank that died before the ring was formed.
ring_timeout_seconds = 10
grace_seconds = {grace}
patience_seconds = 120
metrics_folder = "{folder}/metrics"
[device]
spec = "cpu"
[crawl]
hosts = {{ {hosts} }}
allow_private = [{names}]
[import]
roots = ["{annotations}"]
[telemetry]
health_listen = "127.0.0.1:0"
"#,
            annotations = annotations.display(),
        );
        let path = self.folder.join("capstan.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A port that is free, and stays free while its coordinator restarts.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let length = PORTS.len() as u16;
    // Test processes that run at the same time start at different ports.
    let begin = (std::process::id() % u32::from(length)) as u16;
    let tried = std::iter::from_fn(|| Some(NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut ports = tried
        .take(PORTS.len())
        .map(|n| PORTS.start + begin.wrapping_add(n) % length);
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of 12,000 ports is free")
}
