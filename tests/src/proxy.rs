//! A proxy in front of an S3 server that injects faults of networks and servers.
//!
//! ```text
//! store ── request ──► proxy ── the same bytes ──► MinIO
//!            │ refused (500, 503, 409)   │ cut        │
//!            ◄── answer: whole, late, in pieces, cut, lost, or 500 although the request took effect
//! ```
//! Heads and bodies pass unchanged, including the `Host` header, so signatures stay valid. The fault of
//! the n-th request is a function of the seed and n; which request is the n-th depends on timing.

mod http;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use capstan_plan::draw::Draws;
use http::{Message, Reading};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Limit for one answer of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer in pieces: their number, and the pause between two pieces.
const PIECES: usize = 4;
const PIECE_PAUSE: Duration = Duration::from_millis(10);

/// A fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Answered 500 without reaching the server.
    Internal,
    /// Answered 503 `SlowDown` without reaching the server.
    SlowDown,
    /// A conditional PUT is answered 409 without reaching the server: a conflict without a winner.
    Conflict,
    /// The answer comes late.
    Delay,
    /// The answer comes in pieces.
    Pieces,
    /// The server receives half of the request; then both connections are closed.
    CutRequest,
    /// The request takes effect; the client receives half of the answer, then the connection is closed.
    CutAnswer,
    /// The request takes effect; the connection is closed without an answer.
    LostAnswer,
    /// The request takes effect; the answer is 500.
    InternalAfterEffect,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 9] = [
        Self::Internal,
        Self::SlowDown,
        Self::Conflict,
        Self::Delay,
        Self::Pieces,
        Self::CutRequest,
        Self::CutAnswer,
        Self::LostAnswer,
        Self::InternalAfterEffect,
    ];

    /// Whether the client has to send the request again.
    fn fails(self) -> bool {
        !matches!(self, Self::Delay | Self::Pieces)
    }
}

/// Which requests meet which faults.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Seed of the draws.
    pub seed: u64,
    /// Share of the requests that meet a fault, `0.0..=1.0`.
    pub share: f64,
    /// Faults to inject, each with equal probability.
    pub faults: Vec<Fault>,
    /// Consecutive failures of one method and path, at most; then one request passes.
    pub in_a_row: u32,
}

impl Schedule {
    /// Every fault, on a sixth of the requests, at most three times in a row.
    pub fn stormy(seed: u64) -> Self {
        Self {
            seed,
            share: 1.0 / 6.0,
            faults: Fault::ALL.to_vec(),
            in_a_row: 3,
        }
    }

    /// One fault on every request.
    pub fn always(fault: Fault) -> Self {
        Self {
            seed: 0,
            share: 1.0,
            faults: vec![fault],
            in_a_row: u32::MAX,
        }
    }
}

/// A running proxy, stopped on drop.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    upstream: String,
    schedule: Schedule,
    draws: Draws,
    requests: AtomicU64,
    injected: Mutex<BTreeMap<Fault, u64>>,
    /// Consecutive failures by method and path.
    failed: Mutex<HashMap<String, u32>>,
}

impl Proxy {
    /// Starts a proxy on a free port.
    ///
    /// - `endpoint`: URL of the server, `http://host:port`.
    ///
    /// # Errors
    /// If no port can be bound, or the endpoint is no such URL.
    pub async fn start(endpoint: &str, schedule: Schedule) -> Result<Self> {
        let upstream = endpoint.strip_prefix("http://");
        let upstream = upstream.context("the endpoint does not begin with http://")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            draws: Draws::new(schedule.seed, "proxy"),
            schedule,
            requests: AtomicU64::new(0),
            injected: Mutex::default(),
            failed: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// URL of the proxy, `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of injections of each fault.
    pub fn injected(&self) -> BTreeMap<Fault, u64> {
        lock(&self.state.injected).clone()
    }

    /// Number of requests received.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts connections until it is aborted, which closes all of them.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let state = state.clone();
        // Failing connections are this proxy's purpose.
        connections.spawn(async move {
            let _ = state.serve(client).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl State {
    /// Forwards the requests of one connection, one after the other.
    async fn serve(&self, mut client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let mut reading = Reading::default();
        while let Some(request) = reading.request(&mut client).await? {
            let fault = self.draw(&request);
            if !self.answer(&mut client, &request, fault).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Draws the fault of a request.
    fn draw(&self, request: &Message) -> Option<Fault> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let key = request.method_and_path();
        let is_hit = self.draws.unit(b"whether", number) < self.schedule.share;
        let is_conditional_put = key.starts_with("PUT ") && request.has("if-none-match");
        let applies = |fault: &&Fault| **fault != Fault::Conflict || is_conditional_put;
        let faults: Vec<Fault> = self
            .schedule
            .faults
            .iter()
            .filter(applies)
            .copied()
            .collect();
        let mut failed = lock(&self.failed);
        let in_a_row = failed.entry(key).or_default();
        let may_fail = *in_a_row < self.schedule.in_a_row;
        let fault = (is_hit && may_fail && !faults.is_empty())
            .then(|| faults[self.draws.u64(b"which", number) as usize % faults.len()]);
        match fault {
            Some(fault) if fault.fails() => *in_a_row += 1,
            _ => *in_a_row = 0,
        }
        if let Some(fault) = fault {
            *lock(&self.injected).entry(fault).or_default() += 1;
        }
        fault
    }

    /// Answers one request; returns whether the connection stays open.
    async fn answer(
        &self,
        client: &mut TcpStream,
        request: &Message,
        fault: Option<Fault>,
    ) -> Result<bool> {
        match fault {
            Some(Fault::Internal) => refuse(client, request, 500, "InternalError").await?,
            Some(Fault::SlowDown) => refuse(client, request, 503, "SlowDown").await?,
            Some(Fault::Conflict) => {
                refuse(client, request, 409, "ConditionalRequestConflict").await?;
            }
            Some(Fault::CutRequest) => {
                let bytes = request.bytes();
                let mut server = TcpStream::connect(&self.upstream).await?;
                server.write_all(&bytes[..request.half()]).await?;
                server.shutdown().await?;
                return Ok(false);
            }
            Some(Fault::InternalAfterEffect) => {
                self.pass(request).await?;
                refuse(client, request, 500, "InternalError").await?;
            }
            Some(Fault::LostAnswer) => {
                self.pass(request).await?;
                return Ok(false);
            }
            Some(Fault::CutAnswer) => {
                let answer = self.pass(request).await?;
                client.write_all(&answer.bytes()[..answer.half()]).await?;
                client.shutdown().await?;
                return Ok(false);
            }
            Some(Fault::Delay) => {
                let number = self.requests.load(Ordering::Relaxed);
                let ms = 20 + self.draws.u64(b"delay", number) % 100;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                client.write_all(&self.pass(request).await?.bytes()).await?;
            }
            Some(Fault::Pieces) => {
                let bytes = self.pass(request).await?.bytes();
                for piece in bytes.chunks(bytes.len().div_ceil(PIECES).max(1)) {
                    client.write_all(piece).await?;
                    tokio::time::sleep(PIECE_PAUSE).await;
                }
            }
            None => client.write_all(&self.pass(request).await?.bytes()).await?,
        }
        Ok(true)
    }

    /// Forwards a request over a new connection and returns the answer.
    async fn pass(&self, request: &Message) -> Result<Message> {
        let mut server = TcpStream::connect(&self.upstream).await?;
        server.write_all(&request.bytes()).await?;
        let mut reading = Reading::default();
        let answer = reading.answer(&mut server, request);
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await?
    }
}

/// Answers with an S3 error without forwarding the request.
async fn refuse(client: &mut TcpStream, request: &Message, status: u16, code: &str) -> Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>injected</Message><Resource>/</Resource><RequestId>0</RequestId></Error>"
    );
    let body = if request.method_and_path().starts_with("HEAD ") {
        String::new()
    } else {
        body
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    Ok(client.write_all(answer.as_bytes()).await?)
}
