//! Forming the ring: dialling the next rank while accepting the previous one.
//!
//! The acceptor keeps every connection that has come in as a small state machine on non-blocking
//! reads: a stranger that connects and says nothing waits in its slot and holds up nobody.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::hello::{HELLO_BYTES, Hello, MAC_BYTES, Side, judge, proof};
use crate::link::{is_pause, lost};
use crate::stream::Stream;
use crate::{Joining, RingError, RingPlan, clock};

/// Connections that may be in the middle of a greeting; the oldest gives way to a new one.
const MAX_PENDING: usize = 64;
/// Time that one connection gets for its greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Longest try to reach a host that says nothing, before it is looked whether that has sense.
const TRY: Duration = Duration::from_secs(1);
/// Pause between two looks at the listener, and between two tries to dial.
const POLL: Duration = Duration::from_millis(1);
/// Longest wait of the dialler before it looks whether the acceptor has failed.
const SLICE: Duration = Duration::from_millis(20);
/// Silence after which the system asks whether the other host is alive, and between such questions.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The connections (to the next, from the previous) rank of `plan`.
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
            (Ok(next), Ok(previous)) => Ok((tuned(next)?, tuned(previous)?)),
            // A neighbour that was refused leaves: why it was says more than that it is gone.
            (
                Err(RingError::PeerLost { .. }),
                Err(refused @ RingError::NotJoined { last: Some(_), .. }),
            ) => Err(refused),
            // One side stops because the other has failed: the other knows why.
            (Err(RingError::Broken), Err(error)) | (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

/// A connection as the ring needs it: never blocking, without Nagle's delay, checked while idle.
fn tuned(stream: Stream) -> Result<Stream, RingError> {
    let socket = stream.socket();
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket
        .set_nonblocking(true)
        .and_then(|()| socket.set_nodelay(true))
        .and_then(|()| SockRef::from(socket).set_tcp_keepalive(&keepalive))
        .map_err(setup("tune a connection"))?;
    Ok(stream)
}

fn dial(plan: &RingPlan, wait: &Wait<'_>) -> Result<Stream, RingError> {
    let rank = plan.next();
    let socket = reach(plan.peers[rank], rank, wait)?;
    socket
        .set_nodelay(true)
        .and_then(|()| socket.set_read_timeout(Some(SLICE)))
        .map_err(setup("tune a connection"))?;
    let mut stream = Stream::dialled(socket, wait.joining.tls).map_err(setup("begin TLS"))?;
    let mine = Hello::new(plan, wait.joining.step);
    let lost = |source| lost(rank, source);
    stream.write_all(&mine.encode()).map_err(lost)?;

    let mut answer = [0; HELLO_BYTES + MAC_BYTES];
    let mut filled = 0;
    while filled < answer.len() {
        wait.goes_on(rank)?;
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
        detail: "it does not greet as a rank does",
    })?;
    let own_mac = proof(&plan.secret, Side::Dial, &mine.encode(), &theirs);
    stream.write_all(own_mac.as_bytes()).map_err(lost)?;
    // A newer ring has a newer secret, so claims are judged first: they are unproven then, but
    // this call fails either way.
    judge(plan, &mine, &hello, rank)?;
    if mac != proof(&plan.secret, Side::Accept, &mine.encode(), &theirs) {
        return Err(RingError::Unauthenticated { rank });
    }
    Ok(stream)
}

/// Connects to `address`, trying again while nobody listens there.
fn reach(address: SocketAddr, rank: usize, wait: &Wait<'_>) -> Result<TcpStream, RingError> {
    loop {
        wait.goes_on(rank)?;
        let left = wait.joining.deadline;
        let left = left.saturating_duration_since(clock::now()).max(POLL);
        match TcpStream::connect_timeout(&address, left.min(TRY)) {
            Ok(stream) => return Ok(stream),
            Err(_) => std::thread::sleep(SLICE.min(left)),
        }
    }
}

/// What both halves of joining wait by.
#[derive(Clone, Copy)]
struct Wait<'a> {
    joining: &'a Joining<'a>,
    /// Whether the other half has failed.
    failed: &'a AtomicBool,
}

impl Wait<'_> {
    /// Fails where waiting for `rank` has no sense any more.
    fn goes_on(&self, rank: usize) -> Result<(), RingError> {
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
    let mut pending: Vec<Greeting> = Vec::new();
    let (mut refused, mut last) = (0, None);
    loop {
        // Looked at before what has come in, acted on after: a neighbour that leaves has said why.
        let over = wait.goes_on(rank).err();
        while let Some(greeting) = incoming(plan, listener, wait.joining)? {
            if pending.len() == MAX_PENDING {
                pending.remove(0);
                refused += 1;
            }
            pending.push(greeting);
        }
        let mut index = 0;
        while index < pending.len() {
            match pending[index].advance(plan, rank) {
                Ok(false) => index += 1,
                Ok(true) => return Ok(pending.swap_remove(index).stream),
                Err(Refusal::Stranger(error)) => {
                    tracing::debug!(%error, "refused a connection to the ring");
                    pending.remove(index);
                    (refused, last) = (refused + 1, Some(Box::new(error)));
                }
                Err(Refusal::Ring(error)) => return Err(error),
            }
        }
        match over {
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

/// The next connection that waits at the listener.
fn incoming(
    plan: &RingPlan,
    listener: &TcpListener,
    joining: &Joining<'_>,
) -> Result<Option<Greeting>, RingError> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Greeting::new(stream, plan, joining).ok()),
        Err(error) if is_pause(&error) || is_of_connection(&error) => Ok(None),
        Err(source) => Err(RingError::Setup {
            doing: "accept a connection",
            source,
        }),
    }
}

/// Errors of `accept` that speak of a connection that is already gone, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Why a connection is turned away.
enum Refusal {
    /// It has proven nothing, or is of an older ring: only it is refused.
    Stranger(RingError),
    /// A proven member of this ring's circle contradicts the plan: the ring cannot be formed.
    Ring(RingError),
}

/// A connection in the middle of its greeting.
struct Greeting {
    stream: Stream,
    mine: Hello,
    /// The dialler's hello, then its proof.
    received: [u8; HELLO_BYTES + MAC_BYTES],
    filled: usize,
    answered: bool,
    until: Instant,
}

impl Greeting {
    fn new(socket: TcpStream, plan: &RingPlan, joining: &Joining<'_>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            stream: Stream::accepted(socket, joining.tls)?,
            mine: Hello::new(plan, joining.step),
            received: [0; HELLO_BYTES + MAC_BYTES],
            filled: 0,
            answered: false,
            until: clock::deadline_after(GREETING),
        })
    }

    /// Reads what has come; `true` once the dialler has proven to be rank `expected`.
    fn advance(&mut self, plan: &RingPlan, expected: usize) -> Result<bool, Refusal> {
        let stranger = |detail| {
            Refusal::Stranger(RingError::Protocol {
                rank: expected,
                detail,
            })
        };
        loop {
            // The proof is not read before the answer is out, nor anything after the proof.
            let end = if self.answered {
                self.received.len()
            } else {
                HELLO_BYTES
            };
            if self.filled == end {
                if self.answered {
                    return self.verdict(plan, expected).map(|()| true);
                }
                self.answer(plan)
                    .ok_or_else(|| stranger("it does not greet as a rank does"))?;
                continue;
            }
            match self.stream.read(&mut self.received[self.filled..end]) {
                Ok(0) => return Err(stranger("it left in the middle of its greeting")),
                Ok(read) => self.filled += read,
                Err(error) if is_pause(&error) => break,
                Err(source) => return Err(Refusal::Stranger(lost(expected, source))),
            }
        }
        if clock::now() >= self.until {
            return Err(stranger("it did not finish its greeting in time"));
        }
        Ok(false)
    }

    /// Sends this side's hello and proof; they fit any socket buffer. `None` where the dialler's
    /// hello is none or it takes no answer.
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

    fn verdict(&self, plan: &RingPlan, expected: usize) -> Result<(), Refusal> {
        let (theirs, mac) = split(&self.received);
        let hello = Hello::decode(&theirs).ok_or(Refusal::Stranger(RingError::Broken))?;
        if mac != proof(&plan.secret, Side::Dial, &theirs, &self.mine.encode()) {
            let error = RingError::Unauthenticated { rank: hello.rank };
            return Err(Refusal::Stranger(error));
        }
        judge(plan, &self.mine, &hello, expected).map_err(|error| match error {
            RingError::StalePeer { .. } | RingError::ForeignRun { .. } => Refusal::Stranger(error),
            other => Refusal::Ring(other),
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
