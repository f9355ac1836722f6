//! Limits of connections.
//!
//! The number and the use of connections are limited, so that no client exhausts what the others need:
//!
//! | Limit | Enforced by |
//! |---|---|
//! | connections | [`Acceptor::admit`] closes further ones |
//! | time until the HTTP/2 preface | [`Accepted`]; TLS handshakes have a limit of their own |
//! | unreachable peers | pings (`capstan_runtime::keepalive`) |
//! | streams of a connection, size of headers | HTTP/2 settings of the server |
//! | requests a second, streams of events | [`Connection`] |
//! | size of a message, time of its body | [`crate::limits`] |

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use capstan_plan::clock::Clock;
use capstan_runtime::config;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::error::Error;

/// Length of the HTTP/2 preface in bytes (RFC 9113, section 3.4). A TLS handshake starts with more.
const PREFACE: usize = 24;
/// Time limit for the preface.
const OPENING: Duration = Duration::from_secs(20);
/// Maximum number of open event streams per connection.
pub(crate) const WATCHERS: usize = 16;
/// The burst of a connection: the requests of this many seconds.
const BURST_SECONDS: u64 = 2;

/// Admits connections up to a limit.
pub(crate) struct Acceptor {
    permits: Arc<Semaphore>,
    most: usize,
    requests_per_second: u64,
    clock: Arc<dyn Clock>,
}

impl Acceptor {
    pub(crate) fn new(settings: &config::Coordinator, clock: Arc<dyn Clock>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(settings.max_connections)),
            most: settings.max_connections,
            requests_per_second: settings.max_requests_per_second,
            clock,
        }
    }

    /// Admits a connection. `None` closes it: the limit is reached.
    pub(crate) fn admit<S>(&self, stream: S) -> Option<Accepted<S>> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::warn!(
                most = self.most,
                "a connection was closed: [coordinator] max_connections is reached"
            );
            return None;
        };
        let connection = Connection {
            requests: Arc::new(Bucket::new(self.requests_per_second, self.clock.now())),
            clock: self.clock.clone(),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
        };
        Some(Accepted {
            stream,
            opening: Some(Opening {
                limit: Box::pin(tokio::time::sleep(OPENING)),
                received: 0,
            }),
            connection,
            _permit: permit,
        })
    }
}

/// The limits of a connection. Every request has those of its connection in its extensions.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: Arc<Bucket>,
    clock: Arc<dyn Clock>,
    /// One permit for each stream of events.
    watchers: Arc<Semaphore>,
}

impl Connection {
    /// Counts a request.
    ///
    /// # Errors
    /// [`Error::Limit`]: the rate limit is exceeded.
    pub(crate) fn take_request(&self) -> Result<(), Error> {
        match self.requests.take(self.clock.now()) {
            true => Ok(()),
            false => Err(Error::Limit {
                what: "requests a second",
                most: self.requests.per_second,
            }),
        }
    }

    /// A permit for a stream of events. Hold it as long as the stream.
    ///
    /// # Errors
    /// [`Error::Limit`]: the connection has too many streams.
    pub(crate) fn watch(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = self.watchers.clone().try_acquire_owned();
        permit.map_err(|_| Error::Limit {
            what: "streams of events",
            most: WATCHERS as u64,
        })
    }
}

/// A token bucket.
struct Bucket {
    per_second: u64,
    /// Number of tokens, and the time of the last update.
    state: Mutex<(f64, Duration)>,
}

impl Bucket {
    fn new(per_second: u64, now: Duration) -> Self {
        Self {
            per_second,
            state: Mutex::new(((per_second * BURST_SECONDS) as f64, now)),
        }
    }

    fn take(&self, now: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *state;
        let new = now.saturating_sub(since).as_secs_f64() * self.per_second as f64;
        let tokens = (tokens + new).min((self.per_second * BURST_SECONDS) as f64);
        let is_taken = tokens >= 1.0;
        *state = (if is_taken { tokens - 1.0 } else { tokens }, now);
        is_taken
    }
}

/// A connection that was admitted. Dropping it frees its place.
pub(crate) struct Accepted<S> {
    stream: S,
    /// `None` once the client has sent its preface.
    opening: Option<Opening>,
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

/// A client that has not sent its preface.
struct Opening {
    limit: Pin<Box<Sleep>>,
    received: usize,
}

impl<S> Connected for Accepted<S> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(opening) = &mut self.opening else {
            return read;
        };
        opening.received += buffer.filled().len() - before;
        if opening.received >= PREFACE {
            self.opening = None;
        } else if opening.limit.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use capstan_plan::clock::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn acceptor(max_connections: usize) -> Acceptor {
        let settings = config::Coordinator {
            max_connections,
            ..config::Coordinator::default()
        };
        Acceptor::new(&settings, Arc::new(SystemClock::new()))
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_closed() {
        let acceptor = acceptor(2);
        let first = acceptor.admit(()).unwrap();
        let _second = acceptor.admit(()).unwrap();
        assert!(acceptor.admit(()).is_none());
        drop(first);
        assert!(acceptor.admit(()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_preface_is_closed() {
        let acceptor = acceptor(2);
        for (sent, is_closed) in [(0, true), (PREFACE - 1, true), (PREFACE, false)] {
            let (mut client, server) = tokio::io::duplex(100);
            let mut accepted = acceptor.admit(server).unwrap();
            client.write_all(&vec![0; sent]).await.unwrap();
            let mut bytes = Vec::new();
            let read = accepted.read_to_end(&mut bytes);
            match tokio::time::timeout(OPENING * 10, read).await {
                Ok(ended) => assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut),
                Err(_) => assert!(!is_closed, "{sent} bytes were sent"),
            }
            assert_eq!(
                accepted.opening.is_none(),
                !is_closed,
                "{sent} bytes were sent"
            );
            drop(client);
        }
    }

    #[test]
    fn a_bucket_refills_with_time_up_to_its_burst() {
        let bucket = Bucket::new(10, Duration::ZERO);
        let second = Duration::from_secs(1);
        let taken = |now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(Duration::ZERO), 20);
        assert_eq!(taken(second / 2), 5);
        assert_eq!(taken(second / 2), 0);
        assert_eq!(taken(second * 60), 20);
        // A clock that stops or goes back adds no tokens.
        assert_eq!(taken(second * 59), 0);
    }
}
