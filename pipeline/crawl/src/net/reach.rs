//! Which addresses a crawler may contact.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

use super::NetConfig;

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anybody's.
    Public,
    /// Of a private network: only for names that are allowed.
    Private,
    /// Never: loopback, link-local, multicast, documentation, embedded IPv4, reserved.
    Forbidden,
}

/// Sorts an address by the IANA special-purpose registries (RFC 6890 and its updates).
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        [0 | 127, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Reach::Forbidden,
        _ => Reach::Public,
    }
}

/// Of IPv6 only global unicast (2000::/3) is public, and of that not the protocol
/// assignments (Teredo, ORCHID ...), documentation and 6to4. Mapped and NAT64
/// addresses lie outside of it.
fn reach_v6(address: Ipv6Addr) -> Reach {
    match address.segments() {
        [0xfc00..=0xfdff, ..] => Reach::Private,
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] => Reach::Forbidden,
        [0x3fff, 0..=0xfff, ..] => Reach::Forbidden,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Forbidden,
    }
}

/// Names with rules of their own.
#[derive(Debug)]
pub(super) struct Names {
    hosts: BTreeMap<String, SocketAddr>,
    allow_private: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(config: NetConfig) -> Self {
        let hosts = config.hosts.into_iter();
        let private = config.allow_private.into_iter();
        Self {
            hosts: hosts.map(|(name, at)| (name.to_lowercase(), at)).collect(),
            allow_private: private.map(|name| name.to_lowercase()).collect(),
        }
    }

    /// Where a mapped name leads.
    pub(super) fn mapped(&self, name: &str) -> Option<SocketAddr> {
        self.hosts.get(&name.to_lowercase()).copied()
    }

    /// Whether `name` may stand at `address`, as DNS says.
    pub(super) fn may_be_at(&self, name: &str, address: IpAddr) -> bool {
        match reach(address) {
            Reach::Public => true,
            Reach::Private => self.allow_private.contains(&name.to_lowercase()),
            Reach::Forbidden => false,
        }
    }

    /// Checks what can be told of a URL before its name is resolved: the client asks
    /// no resolver for addresses, and the port of a mapped name is not the page's to choose.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("scheme `{}` is not http or https", url.scheme()));
        }
        let literal = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(Host::Domain(name)) => return self.check_port(name, url.port()),
            None => return Err("the url has no host".to_owned()),
        };
        match reach(literal) {
            Reach::Public => Ok(()),
            _ => Err(format!("{literal} is no public address")),
        }
    }

    fn check_port(&self, name: &str, port: Option<u16>) -> Result<(), String> {
        match (self.mapped(name), port) {
            (Some(at), Some(port)) if at.port() != port => Err(format!(
                "port {port} of the mapped host {name} is not open to crawling"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted_by_the_registries() {
        use Reach::{Forbidden, Private, Public};
        for (address, expected) in [
            ("8.8.8.8", Public),
            ("172.15.0.1", Public),
            ("172.32.0.1", Public),
            ("100.128.0.1", Public),
            ("10.0.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("0.0.0.0", Forbidden),
            ("127.0.0.1", Forbidden),
            ("127.9.9.9", Forbidden),
            ("169.254.169.254", Forbidden),
            ("192.0.0.8", Forbidden),
            ("192.0.2.1", Forbidden),
            ("192.88.99.1", Forbidden),
            ("198.18.0.1", Forbidden),
            ("198.51.100.1", Forbidden),
            ("203.0.113.1", Forbidden),
            ("224.0.0.1", Forbidden),
            ("255.255.255.255", Forbidden),
            ("2606:4700::1111", Public),
            ("2001:4860::8888", Public),
            ("fd00::1", Private),
            ("::", Forbidden),
            ("::1", Forbidden),
            ("::ffff:8.8.8.8", Forbidden),
            ("::ffff:127.0.0.1", Forbidden),
            ("::7f00:1", Forbidden),
            ("64:ff9b::7f00:1", Forbidden),
            ("64:ff9b:1::1", Forbidden),
            ("2002:7f00:1::", Forbidden),
            ("2001::1", Forbidden),
            ("2001:db8::1", Forbidden),
            ("3fff::1", Forbidden),
            ("fe80::1", Forbidden),
            ("fec0::1", Forbidden),
            ("ff02::1", Forbidden),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn urls_are_checked_in_every_spelling_of_an_address() {
        let mut config = NetConfig::default();
        config
            .hosts
            .insert("a.test".into(), "127.0.0.1:4000".parse().unwrap());
        config.allow_private.push("inside.test".into());
        let names = Names::new(config);
        for (url, fine) in [
            ("http://a.test/", true),
            ("http://A.TEST/", true),
            ("http://a.test:4000/", true),
            ("http://a.test:22/", false),
            ("http://8.8.8.8/", true),
            ("http://127.0.0.1/", false),
            ("http://2130706433/", false),
            ("http://0x7f.1/", false),
            ("http://[::1]/", false),
            ("http://[::ffff:7f00:1]/", false),
            ("http://10.0.0.1/", false),
            ("ftp://8.8.8.8/", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(
                names.check(&Url::parse(url).unwrap()).is_ok(),
                fine,
                "{url}"
            );
        }
        assert!(names.may_be_at("Inside.test", "10.0.0.1".parse().unwrap()));
        assert!(!names.may_be_at("inside.test", "127.0.0.1".parse().unwrap()));
        assert!(!names.may_be_at("b.test", "10.0.0.1".parse().unwrap()));
    }
}
