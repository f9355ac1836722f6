//! Places where processes run: this host, or one of its network namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

/// Where a process runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Address that it listens on.
    pub address: IpAddr,
    /// Words before its command, such as `ip netns exec NAME`; none on this host.
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
    /// A command that runs in this place.
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
