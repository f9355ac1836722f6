//! Resolves names to addresses, once, when a process starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use capstan_crawl::NetConfig;
use capstan_plan::backoff::Backoff;
use capstan_runtime::Config;
use tokio::time::Instant;

use crate::error::{Exit, ExpectedError};

/// Longest wait for a name to resolve: its process may start at the same time as this one.
const WAIT: Duration = Duration::from_secs(30);
/// Limits of the delays between two attempts.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The network configuration of the crawler, every name of `[crawl] hosts` resolved.
///
/// # Errors
/// Unavailable, naming the host and its target.
pub async fn net(config: &Config) -> Result<NetConfig, ExpectedError> {
    let mut hosts = BTreeMap::new();
    for (name, target) in &config.crawl.hosts {
        let address = resolve(target).await.map_err(|reason| {
            let line = format!("[crawl] hosts: `{name}` leads to `{target}`, {reason}");
            ExpectedError::new(Exit::Unavailable, line)
        })?;
        hosts.insert(name.clone(), address);
    }
    Ok(NetConfig {
        hosts,
        allow_private: config.crawl.allow_private.clone(),
    })
}

/// The address at which other ranks reach a trainer, if it differs from the bound one.
///
/// # Errors
/// Unavailable, naming it.
pub async fn advertised(config: &Config) -> Result<Option<SocketAddr>, ExpectedError> {
    let target = &config.trainer.advertise;
    if target.is_empty() {
        return Ok(None);
    }
    let address = resolve(target).await.map_err(|reason| {
        let line = format!("[trainer] advertise: `{target}`, {reason}");
        ExpectedError::new(Exit::Unavailable, line)
    })?;
    Ok(Some(address))
}

/// The first address of `host:port`, IPv4 before IPv6: listeners are IPv4 by default.
async fn resolve(target: &str) -> Result<SocketAddr, String> {
    let began = Instant::now();
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        let reason = match tokio::net::lookup_host(target).await {
            Ok(addresses) => {
                let addresses: Vec<_> = addresses.collect();
                let first = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first());
                match first {
                    Some(address) => return Ok(*address),
                    None => "which has no address".to_owned(),
                }
            }
            Err(error) => format!("which does not resolve: {error}"),
        };
        if began.elapsed() >= WAIT {
            return Err(reason);
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_taken_as_they_are() {
        let mut config = Config::default();
        let target = "127.0.0.1:8001";
        config.crawl.hosts.insert("a.test".into(), target.into());
        let net = net(&config).await.unwrap();
        assert_eq!(net.hosts["a.test"], target.parse().unwrap());
    }

    #[tokio::test]
    async fn localhost_is_resolved_to_its_ipv4_address() {
        let address = resolve("localhost:81").await.unwrap();
        assert_eq!(address, "127.0.0.1:81".parse().unwrap());
    }
}
