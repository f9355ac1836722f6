//! Where a process runs: on this host, or in a network namespace of it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

/// Where a process runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Address that it listens on.
    pub address: IpAddr,
    /// What its command begins with, such as `ip netns exec NAME`; nothing for this host.
    pub inside: Vec<String>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            inside: Vec::new(),
        }
    }
}

impl Place {
    /// A command of that place.
    pub fn command(&self, program: &Path) -> Command {
        let mut words = self.inside.iter();
        let Some(first) = words.next() else {
            return Command::new(program);
        };
        let mut command = Command::new(first);
        command.args(words).arg(program);
        command
    }
}
