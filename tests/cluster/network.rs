//! Hosts as network namespaces, joined by a bridge.
//!
//! ```text
//!  this host   bridge .254 ──┬── veth ─ [ namespace 1: .1 ]
//!                            ├── veth ─ [ namespace 2: .2 ]
//!                            └── veth ─ [ namespace 3: .3 ]
//! ```
//! Names and addresses are derived from this process's id. They are removed on drop; the next process
//! removes those of a process that was killed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use capstan_tests::place::Place;

/// Prefix of every namespace's name.
const PREFIX: &str = "capstan-";

/// Hosts that can reach each other and this host.
pub struct Network {
    id: u32,
    hosts: u8,
}

impl Network {
    /// Creates this many hosts. `None`, after one line, if `ip` or the privilege is missing.
    ///
    /// # Panics
    /// In continuous integration (`CI` is set), if the hosts cannot be created.
    pub fn of(hosts: u8) -> Option<Self> {
        if let Err(reason) = is_possible() {
            let line = format!("no network namespaces: {reason}; the test is skipped");
            assert!(std::env::var_os("CI").is_none(), "{line}");
            eprintln!("{line}");
            return None;
        }
        remove_leftovers();
        let id = std::process::id();
        // Dropping `network` removes what is created from here on.
        let network = Self { id, hosts };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&[
            "address",
            "add",
            &format!("{}/24", network.address(254)),
            "dev",
            &bridge,
        ]);
        ip(&["link", "set", &bridge, "up"]);
        for host in 1..=hosts {
            network.add(host);
        }
        Some(network)
    }

    fn add(&self, host: u8) {
        let (namespace, bridge) = (namespace(self.id, host), self.bridge());
        let (outer, inner) = (self.outer(host), format!("{}i", self.outer(host)));
        ip(&["netns", "add", &namespace]);
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", &inner,
        ]);
        ip(&["link", "set", &inner, "netns", &namespace]);
        ip(&["link", "set", &outer, "master", &bridge]);
        ip(&["link", "set", &outer, "up"]);
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &namespace, "address", "add", &address, "dev", &inner]);
        ip(&["-n", &namespace, "link", "set", &inner, "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
    }

    /// A host as a place for processes.
    pub fn place(&self, host: u8) -> Place {
        let inside = ["ip", "netns", "exec", &namespace(self.id, host)];
        Place {
            address: IpAddr::V4(self.address(host)),
            inside: inside.map(str::to_owned).into(),
        }
    }

    /// Sets the link of a host down or up.
    pub fn set_link(&self, host: u8, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        ip(&["link", "set", &self.outer(host), state]);
    }

    /// An address in this process's /24 of 10.64.0.0/10.
    fn address(&self, host: u8) -> Ipv4Addr {
        let [_, _, second, third] = self.id.to_be_bytes();
        Ipv4Addr::new(10, 64 + second % 64, third, host)
    }

    fn bridge(&self) -> String {
        format!("cb{}", self.id)
    }

    /// The end of a host's veth pair that is in the bridge.
    fn outer(&self, host: u8) -> String {
        format!("cv{}h{host}", self.id)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(self.id, 1..=self.hosts);
    }
}

fn namespace(id: u32, host: u8) -> String {
    format!("{PREFIX}{id}-{host}")
}

fn is_possible() -> Result<(), String> {
    let shown = Command::new("ip").args(["netns", "list"]).output();
    shown.map_err(|error| format!("ip (iproute2): {error}"))?;
    let probe = namespace(std::process::id(), 0);
    let made = Command::new("ip").args(["netns", "add", &probe]).output();
    let made = made.map_err(|error| error.to_string())?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(format!("root is needed: {}", said.trim()));
    }
    ip(&["netns", "delete", &probe]);
    Ok(())
}

/// Removes namespaces of processes that were killed.
fn remove_leftovers() {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for line in listed.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let parts = name.strip_prefix(PREFIX).and_then(|n| n.split_once('-'));
        let Some((Ok(id), Ok(host))) = parts.map(|(id, host)| (id.parse(), host.parse())) else {
            continue;
        };
        if !Path::new(&format!("/proc/{id}")).exists() {
            remove(id, host..=host);
        }
    }
}

/// Removes what exists; a veth pair disappears with its namespace.
fn remove(id: u32, hosts: std::ops::RangeInclusive<u8>) {
    let quietly = |args: &[&str]| drop(Command::new("ip").args(args).output());
    for host in hosts {
        quietly(&["link", "delete", &format!("cv{id}h{host}")]);
        quietly(&["netns", "delete", &namespace(id, host)]);
    }
    quietly(&["link", "delete", &format!("cb{id}")]);
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", args.join(" "));
}
