//! Evaluates NetworkPolicies: which pods may connect to which peers.
//!
//! A pod that no policy selects is open. A pod that policies select may do what any of them allows. A
//! connection has to be allowed as egress and as ingress.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::objects::{list, text};
use super::wiring::selects;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum Peer<'a> {
    /// A pod of the namespace, by its labels.
    Pod(&'a Value),
    /// A pod of another namespace.
    Namespace(&'a str),
    /// An address outside the cluster.
    Address(Ipv4Addr),
}

/// A direction as policies name it.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// From a pod to the peer.
    Out,
    /// From the peer to a pod.
    In,
}

/// Whether the policies allow a pod with these labels to connect to `peer`, or the reverse.
///
/// - `port`: name or number, as in the policies.
pub fn allows(objects: &[Value], labels: &Value, way: Way, peer: Peer, port: &Value) -> bool {
    let (kind, rules, peers) = match way {
        Way::Out => ("Egress", "egress", "to"),
        Way::In => ("Ingress", "ingress", "from"),
    };
    let mut policies = objects
        .iter()
        .filter(|object| object["kind"] == "NetworkPolicy")
        .map(|policy| &policy["spec"])
        .filter(|spec| list(&spec["policyTypes"]).contains(&kind.into()))
        .filter(|spec| selects(&spec["podSelector"], labels))
        .peekable();
    if policies.peek().is_none() {
        return true;
    }
    policies.flat_map(|spec| list(&spec[rules])).any(|rule| {
        let ports = list(&rule["ports"]);
        let peers = list(&rule[peers]);
        (ports.is_empty() || ports.iter().any(|entry| entry["port"] == *port))
            && (peers.is_empty() || peers.iter().any(|entry| matches_peer(entry, peer)))
    })
}

/// Whether egress of one pod and ingress of the other allow a connection.
pub fn connects(objects: &[Value], from: &Value, to: &Value, port: &Value) -> bool {
    allows(objects, from, Way::Out, Peer::Pod(to), port)
        && allows(objects, to, Way::In, Peer::Pod(from), port)
}

/// Whether an entry of `to` or `from` matches a peer.
fn matches_peer(entry: &Value, peer: Peer) -> bool {
    let namespaces = &entry["namespaceSelector"];
    match peer {
        Peer::Pod(labels) => {
            namespaces.is_null()
                && entry["podSelector"].is_object()
                && selects(&entry["podSelector"], labels)
        }
        Peer::Namespace(name) => {
            let labels = serde_json::json!({ "kubernetes.io/metadata.name": name });
            namespaces.is_object() && selects(namespaces, &labels)
        }
        Peer::Address(address) => {
            let block = &entry["ipBlock"];
            let mut except = list(&block["except"]).iter();
            contains(text(&block["cidr"]), address)
                && !except.any(|cidr| contains(text(cidr), address))
        }
    }
}

/// Whether an IPv4 block contains an address.
fn contains(cidr: &str, address: Ipv4Addr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(bits)) = (network.parse::<Ipv4Addr>(), bits.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    network.to_bits() & mask == address.to_bits() & mask
}

#[test]
fn blocks_contain_their_addresses() {
    let at = Ipv4Addr::new(172, 31, 0, 9);
    assert!(contains("172.16.0.0/12", at) && contains("0.0.0.0/0", at));
    assert!(!contains("172.16.0.0/16", at) && !contains("2000::/3", at));
}
