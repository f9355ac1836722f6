//! `[crawl]`: the hosts that a crawler may contact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::value;

/// `[crawl]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crawl {
    /// Names that the crawler resolves to `address:port` or `name:port` instead of asking DNS. They
    /// are resolved once, when the worker starts. Only these names may be loopback.
    pub hosts: BTreeMap<String, String>,
    /// Names whose private addresses (RFC 1918, CGNAT, link-local) may be contacted.
    pub allow_private: Vec<String>,
}

impl Crawl {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (name, target) in &self.hosts {
            if !is_host_and_port(target, 1) {
                let reason = format!(
                    "`{name}` is set to `{target}`: give address:port or name:port, such as \
                     127.0.0.1:8001"
                );
                return Err(value("crawl", "hosts", reason));
            }
        }
        Ok(())
    }
}

/// Whether a text is `host:port` with a port of at least `least_port`. The host is a name, an IPv4
/// address, or an IPv6 address in brackets.
pub(super) fn is_host_and_port(text: &str, least_port: u16) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty()
        && !host.contains(|c: char| c.is_whitespace() || c == '/')
        && (bracketed || !host.contains(':'));
    is_host && port.parse::<u16>().is_ok_and(|port| port >= least_port)
}

#[cfg(test)]
mod tests {
    use super::is_host_and_port;

    #[test]
    fn a_host_needs_a_port_and_no_scheme() {
        for good in [
            "127.0.0.1:8001",
            "demoweb:8001",
            "[::1]:80",
            "a.b-c.test:65535",
        ] {
            assert!(is_host_and_port(good, 1), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "demoweb",
            "http://x:80",
            ":80",
            "x:0",
            "x:99999",
            "::1:80",
        ] {
            assert!(!is_host_and_port(bad, 1), "{bad}");
        }
        assert!(is_host_and_port("trainer-0.ring:0", 0));
    }
}
