//! The network as the crawler sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use capstan_plan::stage::Crawl;

use crate::Error;

/// Which names resolve otherwise than by DNS, and which may be private.
#[derive(Debug, Clone, Default)]
pub struct NetConfig {
    /// `[crawl.hosts]`: names that the crawler resolves itself. Only these may be loopback.
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Names whose DNS addresses may be private (RFC 1918, unique local, CGNAT); never loopback or link-local.
    pub allow_private: Vec<String>,
}

/// A client that is polite and cannot be sent where it should not go.
#[derive(Debug)]
pub struct Net {}

impl Net {
    /// # Errors
    /// [`Error::Setting`], [`Error::Client`].
    pub fn new(_config: NetConfig, _crawl: &Crawl) -> Result<Self, Error> {
        unimplemented!()
    }
}
