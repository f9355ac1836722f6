//! The health port: plain HTTP for probes and Prometheus, separate from the ports of the roles.
//!
//! ```text
//! /healthz  200 while the process lives
//! /readyz   200 while every role of the process is ready, else 503 with the roles that are not
//! /metrics  Prometheus' text format
//! ```

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{self, Recorded};

/// A worker is not ready if the coordinator has not answered for this long.
pub const CONTACT: Duration = Duration::from_secs(60);
/// Most open connections. Further connections are closed immediately.
const CONNECTIONS: usize = 64;
/// Limit for one connection, from its first byte to the last byte of its only response.
const CONNECTION: Duration = Duration::from_secs(10);
/// The interval of the metrics' upkeep.
const UPKEEP: Duration = Duration::from_secs(5);
/// Delay after a failed `accept`.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// Whether a role is ready. Cheap to clone; not ready when it is created.
#[derive(Debug, Clone)]
pub struct Readiness {
    marked: Arc<Mutex<Option<Instant>>>,
    lasts: Option<Duration>,
}

impl Readiness {
    /// Ready from [`Readiness::mark`] to [`Readiness::unmark`], for a coordinator that serves.
    pub fn lasting() -> Self {
        Self {
            marked: Arc::default(),
            lasts: None,
        }
    }

    /// Ready for `lasts` after each [`Readiness::mark`], for a worker whose coordinator answers.
    pub fn within(lasts: Duration) -> Self {
        Self {
            marked: Arc::default(),
            lasts: Some(lasts),
        }
    }

    /// Marks the role as ready.
    pub fn mark(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Marks the role as not ready.
    pub fn unmark(&self) {
        *self.lock() = None;
    }

    /// Whether the role is ready.
    pub fn is_ready(&self) -> bool {
        match (*self.lock(), self.lasts) {
            (Some(at), Some(lasts)) => at.elapsed() <= lasts,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // The value is replaced in one assignment, so a panic cannot leave it inconsistent.
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves health and metrics on `listener` until `shutdown`.
///
/// - `roles`: the roles of this process by name, each with its readiness.
///
/// Installs the metrics recorder of the process, if it is not installed yet.
pub async fn serve(
    listener: TcpListener,
    roles: Vec<(&'static str, Readiness)>,
    shutdown: CancellationToken,
) {
    let server = Arc::new(Server {
        roles,
        recorded: metrics::install(),
    });
    let (free, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            _ = upkeep.tick() => {
                server.recorded.upkeep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match (accepted, free.clone().try_acquire_owned()) {
            (Ok((stream, _)), Ok(permit)) => {
                let answer = server.clone().connection(stream);
                connections.spawn(async move {
                    // A client that disconnects or is too slow is not logged.
                    let _ = tokio::time::timeout(CONNECTION, answer).await;
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => {
                tracing::debug!("closed a connection to the health port: too many are open")
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a connection to the health port");
                tokio::time::sleep(ACCEPT_DELAY).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

struct Server {
    roles: Vec<(&'static str, Readiness)>,
    recorded: Recorded,
}

impl Server {
    /// Serves one request.
    async fn connection(self: Arc<Self>, stream: TcpStream) -> Result<(), hyper::Error> {
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(CONNECTION)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match path {
            "/healthz" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.recorded.render());
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "this port serves /healthz, /readyz and /metrics\n".to_owned(),
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let waiting: Vec<_> = self
            .roles
            .iter()
            .filter(|(_, readiness)| !readiness.is_ready())
            .map(|(name, _)| *name)
            .collect();
        if waiting.is_empty() {
            return text(StatusCode::OK, "ready\n".to_owned());
        }
        let line = format!("not ready: {}\n", waiting.join(", "));
        text(StatusCode::SERVICE_UNAVAILABLE, line)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: health\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn probes_and_metrics_are_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (coordinator, worker) = (Readiness::lasting(), Readiness::within(CONTACT));
        let roles = vec![
            ("coordinator", coordinator.clone()),
            ("worker", worker.clone()),
        ];
        let server = tokio::spawn(serve(listener, roles, shutdown.clone()));

        assert_eq!(get(address, "/healthz").await, (200, "alive\n".to_owned()));
        let waiting = (503, "not ready: coordinator, worker\n".to_owned());
        assert_eq!(get(address, "/readyz").await, waiting);
        coordinator.mark();
        let waiting = (503, "not ready: worker\n".to_owned());
        assert_eq!(get(address, "/readyz").await, waiting);
        worker.mark();
        assert_eq!(get(address, "/readyz").await, (200, "ready\n".to_owned()));
        coordinator.unmark();
        assert_eq!(get(address, "/readyz").await.0, 503);

        ::metrics::counter!(metrics::PAGES).increment(7);
        let (status, body) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("\ncapstan_pages_total 7\n"), "{body}");
        assert_eq!(get(address, "/else").await.0, 404);
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn silent_connections_do_not_block_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Vec::new(), shutdown.clone()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // All permits are taken: a further connection is closed and does not wait.
        let mut further = TcpStream::connect(address).await.unwrap();
        assert_eq!(further.read(&mut [0; 1]).await.unwrap_or(0), 0);
        drop(silent);
        while get_or_closed(address).await != Some(200) {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        server.await.unwrap();
    }

    async fn get_or_closed(address: SocketAddr) -> Option<u16> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: health\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.get(9..12)?.parse().ok()
    }

    #[test]
    fn readiness_expires() {
        let readiness = Readiness::within(Duration::ZERO);
        assert!(!readiness.is_ready());
        readiness.mark();
        while readiness.is_ready() {
            std::thread::yield_now();
        }
        assert!(!readiness.is_ready());
    }
}
