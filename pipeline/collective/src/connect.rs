//! Forming the ring: dialling the next rank while accepting the previous one.
//!
//! The acceptor keeps every accepted connection as a small state machine on non-blocking reads. A
//! client that connects and sends nothing occupies a slot and delays no other connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::hello::{HELLO_BYTES, Hello, MAC_BYTES, Side, check_claims, proof};
use crate::link::{is_pause, lost};
use crate::stream::Stream;
use crate::{Joining, RingError, RingPlan, clock};

/// Most connections that may be in their handshake. A new connection replaces the oldest.
const MAX_PENDING: usize = 64;
/// Limit for the handshake of one connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Longest attempt to reach a host that does not answer, before the conditions of joining are
/// checked again.
const DIAL_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two polls of the listener, and the shortest attempt to dial.
const POLL: Duration = Duration::from_millis(1);
/// Longest wait of the dialler before it checks whether the acceptor has failed.
const CHECK_PERIOD: Duration = Duration::from_millis(20);
/// Idle time before the first TCP keep-alive probe, and the interval of probes.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The connections to the next and from the previous rank of `plan`.
pub(crate) fn neighbours(
    plan: &RingPlan,
    listener: &TcpListener,
    joining: &Joining<'_>,
) -> Result<(Stream, Stream), RingError> {
    listener
        .set_nonblocking(true)
        .map_err(setup("make the listener non-blocking"))?;
    let failed = AtomicBool::new(false);
    let wait = Wait {
        joining,
        failed: &failed,
    };
    let guard = |result: Result<Stream, RingError>| {
        failed.fetch_or(result.is_err(), Ordering::SeqCst);
        result
    };
    std::thread::scope(|scope| {
        let dialling = scope.spawn(|| guard(dial(plan, &wait)));
        let previous = guard(accept(plan, listener, &wait));
        let next = dialling.join().unwrap_or(Err(RingError::Broken));
        match (next, previous) {
            (Ok(next), Ok(previous)) => Ok((configured(next)?, configured(previous)?)),
            // A refused neighbour closes its connections. Report why it was refused, not that it
            // is lost.
            (
                Err(RingError::PeerLost { .. }),
                Err(refused @ RingError::NotJoined { last: Some(_), .. }),
            ) => Err(refused),
            // `Broken` only says that the other half failed. Report the other half's error.
            (Err(RingError::Broken), Err(error)) | (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

/// Makes a connection non-blocking, disables Nagle's algorithm and enables keep-alive probes.
fn configured(stream: Stream) -> Result<Stream, RingError> {
    let socket = stream.socket();
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket
        .set_nonblocking(true)
        .and_then(|()| socket.set_nodelay(true))
        .and_then(|()| SockRef::from(socket).set_tcp_keepalive(&keepalive))
        .map_err(setup("configure a connection"))?;
    Ok(stream)
}

fn dial(plan: &RingPlan, wait: &Wait<'_>) -> Result<Stream, RingError> {
    let rank = plan.next();
    let socket = reach(plan.peers[rank], rank, wait)?;
    socket
        .set_nodelay(true)
        .and_then(|()| socket.set_read_timeout(Some(CHECK_PERIOD)))
        .map_err(setup("configure a connection"))?;
    let mut stream = Stream::dialled(socket, wait.joining.tls).map_err(setup("begin TLS"))?;
    let mine = Hello::new(plan, wait.joining.step);
    let lost = |source| lost(rank, source);
    stream.write_all(&mine.encode()).map_err(lost)?;

    let mut answer = [0; HELLO_BYTES + MAC_BYTES];
    let mut filled = 0;
    while filled < answer.len() {
        wait.check(rank)?;
        match stream.read(&mut answer[filled..]) {
            Ok(0) => return Err(RingError::PeerLost { rank, source: None }),
            Ok(read) => filled += read,
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(lost(error)),
        }
    }
    let (theirs, mac) = split(&answer);
    let hello = Hello::decode(&theirs).ok_or(RingError::Protocol {
        rank,
        detail: "its handshake is not that of a rank",
    })?;
    let own_mac = proof(&plan.secret, Side::Dial, &mine.encode(), &theirs);
    stream.write_all(own_mac.as_bytes()).map_err(lost)?;
    // The claims are checked before the proof, because a newer ring has another secret. They are
    // unproven then, but the call fails in either case.
    check_claims(plan, &mine, &hello, rank)?;
    if mac != proof(&plan.secret, Side::Accept, &mine.encode(), &theirs) {
        return Err(RingError::Unauthenticated { rank });
    }
    Ok(stream)
}

/// Connects to `address`. Retries while no process listens there.
fn reach(address: SocketAddr, rank: usize, wait: &Wait<'_>) -> Result<TcpStream, RingError> {
    loop {
        wait.check(rank)?;
        let left = wait.joining.deadline;
        let left = left.saturating_duration_since(clock::now()).max(POLL);
        match TcpStream::connect_timeout(&address, left.min(DIAL_LIMIT)) {
            Ok(stream) => return Ok(stream),
            Err(_) => std::thread::sleep(CHECK_PERIOD.min(left)),
        }
    }
}

/// The conditions under which both halves of joining continue to wait.
#[derive(Clone, Copy)]
struct Wait<'a> {
    joining: &'a Joining<'a>,
    /// Whether the other half has failed.
    failed: &'a AtomicBool,
}

impl Wait<'_> {
    /// Fails if there is no reason to continue waiting for `rank`.
    fn check(&self, rank: usize) -> Result<(), RingError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(RingError::Broken);
        }
        if self.joining.given_up.load(Ordering::SeqCst) {
            return Err(RingError::GivenUp { rank });
        }
        if clock::now() >= self.joining.deadline {
            return Err(RingError::NotJoined {
                rank,
                refused: 0,
                last: None,
            });
        }
        Ok(())
    }
}

fn accept(plan: &RingPlan, listener: &TcpListener, wait: &Wait<'_>) -> Result<Stream, RingError> {
    let rank = plan.previous();
    let mut pending: Vec<Handshake> = Vec::new();
    let (mut refused, mut last) = (0, None);
    loop {
        // Checked before the received bytes are read and applied afterwards, because a neighbour
        // sends the reason before it leaves.
        let ended = wait.check(rank).err();
        while let Some(handshake) = accept_pending(plan, listener, wait.joining)? {
            if pending.len() == MAX_PENDING {
                pending.remove(0);
                refused += 1;
            }
            pending.push(handshake);
        }
        let mut index = 0;
        while index < pending.len() {
            match pending[index].advance(plan, rank) {
                Ok(false) => index += 1,
                Ok(true) => return Ok(pending.swap_remove(index).stream),
                Err(HandshakeError::Connection(error)) => {
                    let cause: &dyn std::error::Error = &error;
                    tracing::debug!(error = cause, "refused a connection to the ring");
                    pending.remove(index);
                    (refused, last) = (refused + 1, Some(Box::new(error)));
                }
                Err(HandshakeError::Ring(error)) => return Err(error),
            }
        }
        match ended {
            None => std::thread::sleep(POLL),
            Some(RingError::Broken) if last.is_none() => return Err(RingError::Broken),
            Some(RingError::NotJoined { .. } | RingError::Broken) => {
                return Err(RingError::NotJoined {
                    rank,
                    refused,
                    last,
                });
            }
            Some(error) => return Err(error),
        }
    }
}

/// Accepts the next connection, if one is pending.
fn accept_pending(
    plan: &RingPlan,
    listener: &TcpListener,
    joining: &Joining<'_>,
) -> Result<Option<Handshake>, RingError> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Handshake::new(stream, plan, joining).ok()),
        Err(error) if is_pause(&error) || is_closed_connection(&error) => Ok(None),
        Err(source) => Err(RingError::Setup {
            doing: "accept a connection",
            source,
        }),
    }
}

/// Whether an error of `accept` concerns a connection that is already closed, not the listener.
fn is_closed_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Why a connection is refused.
enum HandshakeError {
    /// Its peer proved nothing, or belongs to an older ring. Only this connection is refused.
    Connection(RingError),
    /// Its peer knows the secret but contradicts the plan. The ring cannot be formed.
    Ring(RingError),
}

/// A connection during its handshake.
struct Handshake {
    stream: Stream,
    mine: Hello,
    /// The dialler's hello, then its proof.
    received: [u8; HELLO_BYTES + MAC_BYTES],
    filled: usize,
    answered: bool,
    until: Instant,
}

impl Handshake {
    fn new(socket: TcpStream, plan: &RingPlan, joining: &Joining<'_>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            stream: Stream::accepted(socket, joining.tls)?,
            mine: Hello::new(plan, joining.step),
            received: [0; HELLO_BYTES + MAC_BYTES],
            filled: 0,
            answered: false,
            until: clock::deadline_after(HANDSHAKE_LIMIT),
        })
    }

    /// Reads the available bytes. Returns `true` when the dialler has proven to be rank `expected`.
    fn advance(&mut self, plan: &RingPlan, expected: usize) -> Result<bool, HandshakeError> {
        let protocol = |detail| {
            HandshakeError::Connection(RingError::Protocol {
                rank: expected,
                detail,
            })
        };
        loop {
            // The proof is read only after the answer is sent, and nothing is read after it.
            let end = if self.answered {
                self.received.len()
            } else {
                HELLO_BYTES
            };
            if self.filled == end {
                if self.answered {
                    return self.check(plan, expected).map(|()| true);
                }
                self.answer(plan)
                    .ok_or_else(|| protocol("its handshake is not that of a rank"))?;
                continue;
            }
            match self.stream.read(&mut self.received[self.filled..end]) {
                Ok(0) => return Err(protocol("it closed the connection during its handshake")),
                Ok(read) => self.filled += read,
                Err(error) if is_pause(&error) => break,
                Err(source) => return Err(HandshakeError::Connection(lost(expected, source))),
            }
        }
        if clock::now() >= self.until {
            return Err(protocol("it did not finish its handshake in time"));
        }
        Ok(false)
    }

    /// Sends this side's hello and proof, which fit any socket buffer. Returns `None` if the
    /// dialler's hello is invalid or the answer cannot be sent.
    fn answer(&mut self, plan: &RingPlan) -> Option<()> {
        let (theirs, _) = split(&self.received);
        Hello::decode(&theirs)?;
        let mine = self.mine.encode();
        let mac = proof(&plan.secret, Side::Accept, &theirs, &mine);
        let answer = [&mine[..], mac.as_bytes()].concat();
        self.stream.write_all(&answer).ok()?;
        self.answered = true;
        Some(())
    }

    /// Checks the dialler's proof, then its claims.
    fn check(&self, plan: &RingPlan, expected: usize) -> Result<(), HandshakeError> {
        let (theirs, mac) = split(&self.received);
        let hello = Hello::decode(&theirs).ok_or(HandshakeError::Connection(RingError::Broken))?;
        if mac != proof(&plan.secret, Side::Dial, &theirs, &self.mine.encode()) {
            let error = RingError::Unauthenticated { rank: hello.rank };
            return Err(HandshakeError::Connection(error));
        }
        check_claims(plan, &self.mine, &hello, expected).map_err(|error| match error {
            RingError::StalePeer { .. } | RingError::ForeignRun { .. } => {
                HandshakeError::Connection(error)
            }
            other => HandshakeError::Ring(other),
        })
    }
}

/// A hello and the proof after it.
fn split(bytes: &[u8; HELLO_BYTES + MAC_BYTES]) -> ([u8; HELLO_BYTES], blake3::Hash) {
    let (hello, mac) = bytes.split_at(HELLO_BYTES);
    let mac: [u8; MAC_BYTES] = mac.try_into().expect("the rest is the proof");
    (
        hello.try_into().expect("split at its length"),
        blake3::Hash::from_bytes(mac),
    )
}

fn setup(doing: &'static str) -> impl Fn(io::Error) -> RingError {
    move |source| RingError::Setup { doing, source }
}
