//! The network as the crawler sees it: a client without proxies, redirects and
//! cookies, which can only connect to addresses that were checked.

mod fetch;
mod host;
mod reach;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use capstan_plan::stage::Crawl;

pub(crate) use fetch::{Answer, Fetcher, Want};

use crate::Error;
use reach::Names;

/// Longest time for a connection to stand, TLS included; `timeout_ms` bounds the whole.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which names resolve otherwise than by DNS, and which may be private.
#[derive(Debug, Clone, Default)]
pub struct NetConfig {
    /// `[crawl.hosts]`: names that the crawler resolves itself. Only these may be
    /// loopback, and their URLs carry no port other than the mapped one.
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Names whose DNS addresses may be private (RFC 1918, RFC 6598, RFC 4193);
    /// never loopback or link-local.
    pub allow_private: Vec<String>,
}

/// A client that cannot be sent where a crawler should not go. Cheap to clone;
/// one serves any number of tasks with the same user agent.
#[derive(Debug, Clone)]
pub struct Net {
    client: reqwest::Client,
    names: Arc<Names>,
}

impl Net {
    /// Builds the client; `crawl` gives the user agent and the connections kept per host.
    ///
    /// # Errors
    /// [`Error::Setting`] for a user agent that robots.txt cannot name, [`Error::Client`].
    pub fn new(config: NetConfig, crawl: &Crawl) -> Result<Self, Error> {
        check(crawl)?;
        let names = Arc::new(Names::new(config));
        let agent = format!("{}/{}", crawl.user_agent, env!("CARGO_PKG_VERSION"));
        let client = reqwest::Client::builder()
            .user_agent(agent)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .gzip(true)
            // The object store's client enables HTTP/2 in the shared library.
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(crawl.concurrency_per_host)
            .dns_resolver(Arc::new(resolve::Guarded(names.clone())))
            .build()
            .map_err(Error::Client)?;
        Ok(Self { client, names })
    }
}

fn check(crawl: &Crawl) -> Result<(), Error> {
    let setting = |field, problem: String| Err(Error::Setting { field, problem });
    let token = &crawl.user_agent;
    let is_token = |c: char| c.is_ascii_alphabetic() || c == '-' || c == '_';
    if token.is_empty() || !token.chars().all(is_token) {
        let problem =
            format!("`{token}` is no product token: use letters, `-` and `_` (RFC 9309, 2.2.1)");
        return setting("user_agent", problem);
    }
    for (field, value) in [
        ("shards", crawl.shards),
        ("concurrency", crawl.concurrency),
        ("concurrency_per_host", crawl.concurrency_per_host),
        ("tries", crawl.tries as usize),
        ("timeout_ms", crawl.timeout_ms as usize),
    ] {
        if value == 0 {
            return setting(field, "0 would fetch nothing; use 1 or more".to_owned());
        }
    }
    Ok(())
}
