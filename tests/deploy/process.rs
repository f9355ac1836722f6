//! A container of Compose or Kubernetes, checked against the program that runs in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use capstan_runtime::Config;

use super::{dockerfile, program};

/// A mount in a container.
#[derive(Debug, Clone, Default)]
pub struct Mount {
    /// Whether the process may write there.
    pub is_writable: bool,
    /// Names of its initial files, if they are known.
    pub files: Vec<String>,
    /// Size limit, if there is one.
    pub max_bytes: Option<u64>,
}

/// A container as described by a file under `deploy/`.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Name in findings, such as `Deployment/worker-crawl` or `compose/worker-1`.
    pub name: String,
    /// Image with its tag.
    pub image: String,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// The environment, values resolved.
    pub environment: Vec<(String, String)>,
    /// Text of each configuration file by its path.
    pub configurations: BTreeMap<String, String>,
    /// Mounts by path.
    pub mounts: BTreeMap<String, Mount>,
    /// Declared ports, if the format declares any.
    pub ports: Option<BTreeSet<u16>>,
    /// Port and path of every health probe.
    pub probes: Vec<(u16, String)>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: u64,
}

/// The role that the first argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Coordinator,
    Worker,
    Trainer,
    /// Any other command of the program.
    Other,
}

impl Process {
    /// The first argument, such as `worker`.
    pub fn command(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    fn role(&self) -> Role {
        match self.command() {
            "coordinator" => Role::Coordinator,
            "worker" => Role::Worker,
            "trainer" => Role::Trainer,
            _ => Role::Other,
        }
    }

    /// The effective settings.
    ///
    /// # Errors
    /// The program's error, or a configuration file that is not mounted.
    pub fn settings(&self) -> Result<Config, String> {
        let variable = self
            .environment
            .iter()
            .find(|(name, _)| name == "CAPSTAN_CONFIG");
        let path = program::value_of(&self.args, "--config").or(variable.map(|(_, path)| &**path));
        let text = match path {
            Some(path) => match self.configurations.get(path) {
                Some(text) => text,
                None => return Err(format!("no file is mounted at --config {path}")),
            },
            None => "",
        };
        program::settings(text, &self.environment, &self.args)
    }

    /// Findings about image, arguments, variables, ports, paths and grace period.
    pub fn check(&self) -> Vec<String> {
        let mut findings = Vec::new();
        findings.extend(dockerfile::unknown_image(&self.image));
        findings.extend(program::refuses(&self.args));
        for (name, _) in &self.environment {
            if !program::reads_variable(name) {
                findings.push(format!("the program reads no variable {name}"));
            }
        }
        match self.settings() {
            Ok(settings) => {
                findings.extend(self.check_ports(&settings));
                findings.extend(self.check_paths(&settings));
                findings.extend(self.check_grace(&settings));
            }
            Err(error) => findings.push(error),
        }
        let name = &self.name;
        let findings = findings.into_iter();
        findings
            .map(|finding| format!("{name}: {finding}"))
            .collect()
    }

    /// Ports on which the role listens with these settings.
    fn listens_on(&self, settings: &Config) -> BTreeSet<u16> {
        let health = port_of(&settings.telemetry.health_listen);
        let own = match self.role() {
            Role::Coordinator => Some(settings.coordinator.listen.port()),
            Role::Trainer => Some(settings.trainer.listen.port()),
            Role::Worker => None,
            Role::Other => return BTreeSet::new(),
        };
        health.into_iter().chain(own).collect()
    }

    fn check_ports(&self, settings: &Config) -> Vec<String> {
        let mut findings = Vec::new();
        let role = self.role();
        let listens = self.listens_on(settings);
        if let Some(declared) = &self.ports
            && *declared != listens
        {
            findings.push(format!(
                "declares ports {declared:?} but listens on {listens:?}"
            ));
        }
        if role == Role::Trainer {
            let advertised = port_of(&settings.trainer.advertise);
            if advertised != Some(settings.trainer.listen.port()) {
                let listen = settings.trainer.listen;
                findings.push(format!(
                    "listens on {listen} but advertises port {advertised:?}"
                ));
            }
        }
        let health = port_of(&settings.telemetry.health_listen);
        if role != Role::Other && self.probes.is_empty() {
            findings.push("has no health probe".to_owned());
        }
        for (port, path) in self.probes.iter().filter(|_| role != Role::Other) {
            if Some(*port) != health {
                findings.push(format!(
                    "a probe requests port {port}, but health is on {health:?}"
                ));
            }
            if !program::HEALTH_PATHS.contains(&&**path) {
                findings.push(format!(
                    "a probe requests {path}, which the health port does not serve"
                ));
            }
        }
        findings
    }

    /// Files and folders in the settings that are not mounted, not writable or too small.
    fn check_paths(&self, settings: &Config) -> Vec<String> {
        let mut findings = Vec::new();
        let certificate = match self.role() {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
            Role::Trainer => "trainer",
            Role::Other => return findings,
        };
        let folder = settings.safety.certificates.display().to_string();
        match self.mount_of(&folder) {
            None => findings.push(format!("no certificates are mounted at `{folder}`")),
            Some((_, mount)) if !mount.files.is_empty() => {
                let needed = [
                    "ca.pem",
                    &format!("{certificate}.pem"),
                    &format!("{certificate}.key"),
                ];
                for file in needed {
                    if !mount.files.iter().any(|there| there == file) {
                        findings.push(format!("{file} is not among the mounted certificates"));
                    }
                }
            }
            Some(_) => {}
        }
        let token = settings.safety.token_file.display().to_string();
        if !token.is_empty() && self.mount_of(&token).is_none() {
            findings.push(format!("no token is mounted at {token}"));
        }
        for (what, path, bytes) in self.written_paths(settings) {
            match self.mount_of(&path) {
                Some((_, mount)) if mount.is_writable => {
                    if mount.max_bytes.is_some_and(|most| most <= bytes) {
                        findings.push(format!(
                            "{what} may grow to {bytes} bytes, beyond its volume's limit"
                        ));
                    }
                }
                _ => findings.push(format!("{what} is at {path}, which is not writable")),
            }
        }
        findings
    }

    /// What a role writes: name, path, and size limit in bytes.
    fn written_paths(&self, settings: &Config) -> Vec<(&'static str, String, u64)> {
        let path = |path: &Path| path.display().to_string();
        match self.role() {
            Role::Coordinator => {
                let database = settings.coordinator.database.trim_start_matches("sqlite:");
                vec![("the database", database.to_owned(), 0)]
            }
            Role::Worker => {
                let worker = &settings.worker;
                vec![("the cache", path(&worker.cache_folder), worker.cache_bytes)]
            }
            Role::Trainer => {
                let trainer = &settings.trainer;
                vec![
                    (
                        "the cache",
                        path(&trainer.cache_folder),
                        trainer.cache_bytes,
                    ),
                    ("the metrics", path(&trainer.metrics_folder), 0),
                ]
            }
            Role::Other => Vec::new(),
        }
    }

    /// The innermost mount that contains a path.
    fn mount_of(&self, path: &str) -> Option<(&String, &Mount)> {
        let holds = |at: &str| Path::new(path).starts_with(at);
        self.mounts
            .iter()
            .filter(|(at, _)| holds(at))
            .max_by_key(|(at, _)| at.len())
    }

    fn check_grace(&self, settings: &Config) -> Option<String> {
        let needed = match self.role() {
            Role::Worker => settings.worker.grace_seconds,
            Role::Trainer => settings.trainer.grace_seconds,
            Role::Coordinator | Role::Other => return None,
        };
        let given = self.grace_seconds;
        (given <= needed)
            .then(|| format!("is killed after {given} s but may take {needed} s to stop"))
    }
}

/// The port of `host:port`.
pub fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}
