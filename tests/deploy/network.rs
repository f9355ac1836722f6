//! Who may talk to whom: the rules of NetworkPolicies, evaluated.
//!
//! Pods that no policy selects are open; pods that some select may do what any of these allows. A
//! connection needs leave to go out and leave to come in.

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
    /// An address outside of the cluster.
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

/// Whether a pod with these labels may talk to (or be talked to by) `peer` on a port, given by the
/// name or number that the policies use.
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
            && (peers.is_empty() || peers.iter().any(|entry| is(entry, peer)))
    })
}

/// Whether pods may connect: leave to go out and leave to come in.
pub fn connects(objects: &[Value], from: &Value, to: &Value, port: &Value) -> bool {
    allows(objects, from, Way::Out, Peer::Pod(to), port)
        && allows(objects, to, Way::In, Peer::Pod(from), port)
}

fn is(entry: &Value, peer: Peer) -> bool {
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
            holds(text(&block["cidr"]), address) && !except.any(|cidr| holds(text(cidr), address))
        }
    }
}

/// Whether an IPv4 block holds an address.
fn holds(cidr: &str, address: Ipv4Addr) -> bool {
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
fn blocks_hold_their_addresses() {
    let at = Ipv4Addr::new(172, 31, 0, 9);
    assert!(holds("172.16.0.0/12", at) && holds("0.0.0.0/0", at));
    assert!(!holds("172.16.0.0/16", at) && !holds("2000::/3", at));
}
