//! HTTP/2 pings, by which both ends of a connection notice that the other one is gone.
//!
//! A peer that left the network without closing its connections (a machine that lost power, a
//! firewall that dropped a flow) is detected within [`INTERVAL`] + [`TIMEOUT`]. Otherwise a call
//! waits until the kernel gives up, which takes about 15 minutes.

use std::time::Duration;

use tonic::transport::Endpoint;

/// Time between two pings.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Limit for the answer to a ping.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The endpoint with pings on its connections, also while they have no calls: a connection that
/// died while it was idle must not receive the next call.
pub fn client(endpoint: Endpoint) -> Endpoint {
    with_periods(endpoint, INTERVAL, TIMEOUT)
}

fn with_periods(endpoint: Endpoint, interval: Duration, timeout: Duration) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hyper_util::rt::TokioIo;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_idle_connection_to_a_silent_peer_is_closed() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let near = Arc::new(Mutex::new(Some(TokioIo::new(near))));
        let connect = move |_| {
            let near = near.lock().unwrap().take();
            async { near.ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        };
        let endpoint = with_periods(Endpoint::from_static("http://peer"), PERIOD, PERIOD);
        let channel = endpoint.connect_with_connector(tower::service_fn(connect));
        let channel = channel.await.unwrap();
        // Reads what the client sends until it closes the connection, and never answers.
        let mut sink = tokio::io::sink();
        let closed = tokio::time::timeout(LIMIT, tokio::io::copy(&mut far, &mut sink)).await;
        closed.expect("the client closes the connection").unwrap();
        drop(channel);
    }
}
