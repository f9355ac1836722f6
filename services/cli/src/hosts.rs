//! Names to addresses, once, when a process starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use capstan_crawl::NetConfig;
use capstan_runtime::Config;
use tokio::time::Instant;

use crate::error::{Exit, ExpectedError};

/// How long a name may take to become known: the process behind it may start beside this one.
const WAIT: Duration = Duration::from_secs(30);
/// Between two questions for it.
const AGAIN: Duration = Duration::from_millis(500);

/// What a crawler may contact, every name of `[crawl] hosts` resolved.
///
/// # Errors
/// Unavailable, naming the host and where it leads.
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

/// Where other ranks reach a trainer, where that is not the address that it is bound to.
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

/// The first address of `host:port`, IPv4 before IPv6: listeners are IPv4 unless told otherwise.
async fn resolve(target: &str) -> Result<SocketAddr, String> {
    let began = Instant::now();
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
        tokio::time::sleep(AGAIN).await;
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
