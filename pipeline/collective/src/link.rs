//! The two connections of a rank. The calling thread serves both: it writes what may be sent, reads
//! what has arrived, and sleeps only when neither connection is ready. Sending therefore never
//! waits for receiving, whatever the size of a message, and no bytes move between threads.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::stream::Stream;
use crate::{RingError, clock};

/// Layout: operation (1), reserved (3), root (4), sequence number of the call (8), bytes of the
/// message (8).
const HEADER_BYTES: usize = 24;

/// The operation of a call. The header contains it, so that ranks in different operations fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    AllReduce = 1,
    AllGather = 2,
    Broadcast = 3,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
        }
    }
}

/// One call: its operation, sequence number, length and deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// The rank whose values are sent, for a broadcast; otherwise 0.
    pub(crate) root: u32,
    pub(crate) sequence: u64,
    /// Bytes of the message if they must be equal on all ranks; otherwise 0.
    pub(crate) bytes: u64,
    pub(crate) deadline: Instant,
}

impl Call {
    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = self.operation as u8;
        header[4..8].copy_from_slice(&self.root.to_le_bytes());
        header[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        header[16..].copy_from_slice(&self.bytes.to_le_bytes());
        header
    }

    /// The first difference between `header` and this call's header.
    fn difference(&self, header: &[u8; HEADER_BYTES]) -> &'static str {
        let own = self.header();
        if header[..4] != own[..4] {
            "it is in another operation"
        } else if header[4..8] != own[4..8] {
            "it expects the values of another rank"
        } else if header[8..16] != own[8..16] {
            "it is in another call"
        } else {
            "its message has another length"
        }
    }
}

/// An operation as a stream of bytes to send and one to receive. [`Links`] moves the bytes.
pub(crate) trait Exchange {
    /// The bytes that may be sent now. Empty while they depend on bytes not yet received, and at
    /// the end.
    fn outgoing(&self) -> &[u8];
    /// Records that the first `count` bytes of `outgoing` were sent.
    fn sent(&mut self, count: usize);
    /// Whether every byte was sent.
    fn has_sent_all(&self) -> bool;
    /// The buffer for the next received bytes. Empty when every byte was received.
    fn incoming(&mut self) -> &mut [u8];
    /// Records that the first `count` bytes of `incoming` were received.
    ///
    /// # Errors
    /// [`RingError`] if the received bytes are invalid.
    fn received(&mut self, count: usize) -> Result<(), RingError>;
}

/// The two non-blocking connections of a rank.
pub(crate) struct Links {
    next: Stream,
    next_rank: usize,
    previous: Stream,
    previous_rank: usize,
    bytes_sent: u64,
}

/// How many bytes of a call's header were sent and received.
#[derive(Default)]
struct Headers {
    sent: usize,
    received: usize,
    theirs: [u8; HEADER_BYTES],
}

impl Links {
    pub(crate) fn new(next: (Stream, usize), previous: (Stream, usize)) -> Self {
        Self {
            next: next.0,
            next_rank: next.1,
            previous: previous.0,
            previous_rank: previous.1,
            bytes_sent: 0,
        }
    }

    /// Bytes sent by all calls, without headers.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Duplicates of both sockets, with which another thread can end the connections.
    pub(crate) fn sockets(&self) -> io::Result<Vec<TcpStream>> {
        let sockets = [self.next.socket(), self.previous.socket()];
        sockets.into_iter().map(TcpStream::try_clone).collect()
    }

    /// Ends both connections, which notifies the neighbours.
    pub(crate) fn end(&self) {
        for socket in [self.next.socket(), self.previous.socket()] {
            // An error means that the connection has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Completes `exchange` before the deadline of `call`.
    pub(crate) fn run(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
    ) -> Result<(), RingError> {
        let mut headers = Headers::default();
        let mut result = self.exchange_all(call, exchange, &mut headers);
        // A neighbour in another call leaves when it detects this. Its header is a better error
        // than its loss, and it needs this rank's header for the same reason.
        if let Err(RingError::PeerLost { .. }) = &result {
            result = self.read_rest_of_header(call, &mut headers).and(result);
        }
        if let Err(RingError::Protocol { .. }) = &result {
            self.finish_header(call, &mut headers);
        }
        result
    }

    fn exchange_all(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
        headers: &mut Headers,
    ) -> Result<(), RingError> {
        loop {
            let wrote = self.send(call, exchange, headers)?;
            let read = self.receive(call, exchange, headers)?;
            let writes = headers.sent < HEADER_BYTES
                || !exchange.outgoing().is_empty()
                || self.next.has_unsent();
            let reads = headers.received < HEADER_BYTES || !exchange.incoming().is_empty();
            if !writes && !reads && exchange.has_sent_all() {
                return Ok(());
            }
            let left = self.time_left(call, reads)?;
            if !wrote && !read {
                self.wait(writes, reads, left)?;
            }
        }
    }

    /// Writes once. Returns whether any byte was written.
    fn send(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
        headers: &mut Headers,
    ) -> Result<bool, RingError> {
        let (header, payload) = (call.header(), exchange.outgoing());
        let header = &header[headers.sent..];
        let result = match (header.is_empty(), payload.is_empty()) {
            (true, true) if !self.next.has_unsent() => return Ok(false),
            (true, true) => self.next.flush().map(|()| 0),
            (true, false) => self.next.write(payload),
            (false, _) => {
                let both = [IoSlice::new(header), IoSlice::new(payload)];
                self.next.write_vectored(&both)
            }
        };
        let Some(count) = progress(result, self.next_rank)? else {
            return Ok(false);
        };
        let of_header = count.min(header.len());
        headers.sent += of_header;
        exchange.sent(count - of_header);
        self.bytes_sent += (count - of_header) as u64;
        Ok(true)
    }

    /// Reads once. Returns whether any byte was read.
    fn receive(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
        headers: &mut Headers,
    ) -> Result<bool, RingError> {
        let payload = exchange.incoming();
        if headers.received == HEADER_BYTES {
            if payload.is_empty() {
                return Ok(false);
            }
            let result = self.previous.read(payload);
            let Some(count) = self.read_count(result)? else {
                return Ok(false);
            };
            exchange.received(count)?;
            return Ok(true);
        }
        let header = &mut headers.theirs[headers.received..];
        let room = header.len();
        let mut both = [IoSliceMut::new(header), IoSliceMut::new(payload)];
        let result = self.previous.read_vectored(&mut both);
        let Some(count) = self.read_count(result)? else {
            return Ok(false);
        };
        headers.received += count.min(room);
        self.check(call, headers)?;
        if count > room {
            exchange.received(count - room)?;
        }
        Ok(true)
    }

    /// Checks that a complete header is that of this call.
    fn check(&self, call: &Call, headers: &Headers) -> Result<(), RingError> {
        if headers.received == HEADER_BYTES && headers.theirs != call.header() {
            return Err(RingError::Protocol {
                rank: self.previous_rank,
                detail: call.difference(&headers.theirs),
            });
        }
        Ok(())
    }

    /// The number of bytes that were read; `None` if none are available yet.
    fn read_count(&self, result: io::Result<usize>) -> Result<Option<usize>, RingError> {
        match progress(result, self.previous_rank)? {
            Some(0) => Err(RingError::PeerLost {
                rank: self.previous_rank,
                source: None,
            }),
            other => Ok(other),
        }
    }

    /// Reads the available rest of an incomplete header from a connection that has ended.
    fn read_rest_of_header(&mut self, call: &Call, headers: &mut Headers) -> Result<(), RingError> {
        while headers.received < HEADER_BYTES {
            match self.previous.read(&mut headers.theirs[headers.received..]) {
                Ok(count) if count > 0 => headers.received += count,
                _ => return Ok(()),
            }
        }
        self.check(call, headers)
    }

    /// Sends the rest of this rank's header, if that is possible before the deadline.
    fn finish_header(&mut self, call: &Call, headers: &mut Headers) {
        let header = call.header();
        while headers.sent < HEADER_BYTES || self.next.has_unsent() {
            match self.next.write(&header[headers.sent..]) {
                Ok(count) if count > 0 => headers.sent += count,
                Err(error) if is_pause(&error) => {
                    let Ok(left) = self.time_left(call, false) else {
                        return;
                    };
                    if self.wait(true, false, left).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// The time until the deadline of a call.
    fn time_left(&self, call: &Call, reads: bool) -> Result<Duration, RingError> {
        let left = call.deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(RingError::Deadline {
                operation: call.operation.name(),
                rank: if reads {
                    self.previous_rank
                } else {
                    self.next_rank
                },
            });
        }
        Ok(left)
    }

    /// Sleeps until a connection is ready as requested, or `limit` has passed.
    fn wait(&self, writes: bool, reads: bool, limit: Duration) -> Result<(), RingError> {
        let (next, previous) = (self.next.socket().as_fd(), self.previous.socket().as_fd());
        let mut interests = Vec::with_capacity(2);
        if writes {
            interests.push(PollFd::from_borrowed_fd(next, PollFlags::OUT));
        }
        if reads {
            // TLS may have to send an answer before the other side continues.
            let behind = self.previous.has_unsent();
            let answer = if behind {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            interests.push(PollFd::from_borrowed_fd(previous, PollFlags::IN | answer));
        }
        // A limit that does not fit the type is no limit; the caller checks the deadline again.
        let limit = Timespec::try_from(limit).ok();
        match rustix::event::poll(&mut interests, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(RingError::Setup {
                doing: "wait for the connections",
                source: error.into(),
            }),
        }
    }
}

/// The number of bytes that a read or write moved; `None` if it would block.
fn progress(result: io::Result<usize>, rank: usize) -> Result<Option<usize>, RingError> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if is_pause(&error) => Ok(None),
        Err(error) => Err(lost(rank, error)),
    }
}

/// Whether an error only means that a socket is not ready.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Converts an error of a connection to `rank`.
pub(crate) fn lost(rank: usize, source: io::Error) -> RingError {
    let is_tls = source
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    if is_tls {
        return RingError::Untrusted { rank, source };
    }
    RingError::PeerLost {
        rank,
        source: Some(source),
    }
}
