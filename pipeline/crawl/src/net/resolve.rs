//! A resolver that gives out only addresses that were checked. The client connects
//! to what it is given, so a name cannot mean one thing when it is checked and
//! another when it is used.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::reach::Names;

/// A name stands at no address that a crawler may contact.
#[derive(Debug, thiserror::Error)]
#[error("{name} stands at no public address")]
pub(super) struct AddressRefused {
    name: String,
}

/// The checked resolver.
#[derive(Debug)]
pub(super) struct Guarded(pub(super) Arc<Names>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            if let Some(at) = names.mapped(&name) {
                return Ok(Box::new(std::iter::once(at)) as Addrs);
            }
            // Port 0: the client puts the port of the URL in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|at| names.may_be_at(&name, at.ip())).collect();
            if allowed.is_empty() {
                return Err(AddressRefused { name }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
