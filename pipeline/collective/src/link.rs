//! The two connections of a rank, moved together by the thread that calls: it writes what may go
//! out and reads what has come in, and sleeps only when neither can go on. So sending never waits
//! for receiving, whatever the size of a message, and no bytes are handed to another thread.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::stream::Stream;
use crate::{RingError, clock};

/// operation (1), reserved (3), root (4), sequence number of the call (8), bytes of the message (8).
const HEADER_BYTES: usize = 24;

/// What a call does; stands at its head, so that ranks that call different things find out.
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

/// One call: what, the how-manieth of the ring, how long on every rank, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// Whose values are sent where one rank's are, else zero.
    pub(crate) root: u32,
    pub(crate) sequence: u64,
    /// Bytes of the message where all ranks must give as many, else zero.
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

    /// Why `header`, which is not this call's, is not.
    fn contradiction(&self, header: &[u8; HEADER_BYTES]) -> &'static str {
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

/// One operation as its two streams of bytes, which the caller of its methods moves.
pub(crate) trait Exchange {
    /// What may go out now; empty while that waits for what comes in, and at the end.
    fn outgoing(&self) -> &[u8];
    /// The first `count` bytes of it are out.
    fn sent(&mut self, count: usize);
    /// Whether nothing more goes out.
    fn has_sent_all(&self) -> bool;
    /// Where the next bytes belong; empty once nothing more comes in.
    fn incoming(&mut self) -> &mut [u8];
    /// The first `count` bytes of it are in.
    ///
    /// # Errors
    /// [`RingError`] where they say what they must not.
    fn received(&mut self, count: usize) -> Result<(), RingError>;
}

/// The connections of one rank. Neither blocks.
pub(crate) struct Links {
    next: Stream,
    next_rank: usize,
    previous: Stream,
    previous_rank: usize,
    bytes_sent: u64,
}

/// How far the header of a call has come each way.
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

    /// Bytes that have gone out in all calls, headers aside.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// More holds on both connections, to end them from another thread.
    pub(crate) fn sockets(&self) -> io::Result<Vec<TcpStream>> {
        let sockets = [self.next.socket(), self.previous.socket()];
        sockets.into_iter().map(TcpStream::try_clone).collect()
    }

    /// Ends both connections at once, so that the neighbours learn of it.
    pub(crate) fn end(&self) {
        for socket in [self.next.socket(), self.previous.socket()] {
            // One that has ended already is what was wanted.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Does all of `exchange` before the deadline of `call`.
    pub(crate) fn run(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
    ) -> Result<(), RingError> {
        let mut headers = Headers::default();
        let mut result = self.all(call, exchange, &mut headers);
        // A neighbour that calls something else leaves as soon as it knows: its header says more
        // than that it is gone, and it is to have this rank's.
        if let Err(RingError::PeerLost { .. }) = &result {
            result = self.rest_of_header(call, &mut headers).and(result);
        }
        if let Err(RingError::Protocol { .. }) = &result {
            self.finish_header(call, &mut headers);
        }
        result
    }

    fn all(
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
                || self.next.is_behind();
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

    /// Writes once what may go out; whether anything went.
    fn send(
        &mut self,
        call: &Call,
        exchange: &mut impl Exchange,
        headers: &mut Headers,
    ) -> Result<bool, RingError> {
        let (header, payload) = (call.header(), exchange.outgoing());
        let header = &header[headers.sent..];
        let result = match (header.is_empty(), payload.is_empty()) {
            (true, true) if !self.next.is_behind() => return Ok(false),
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

    /// Reads once what has come in; whether anything came.
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
            let Some(count) = self.came(result)? else {
                return Ok(false);
            };
            exchange.received(count)?;
            return Ok(true);
        }
        let header = &mut headers.theirs[headers.received..];
        let room = header.len();
        let mut both = [IoSliceMut::new(header), IoSliceMut::new(payload)];
        let result = self.previous.read_vectored(&mut both);
        let Some(count) = self.came(result)? else {
            return Ok(false);
        };
        headers.received += count.min(room);
        self.check(call, headers)?;
        if count > room {
            exchange.received(count - room)?;
        }
        Ok(true)
    }

    /// Refuses the header of another call.
    fn check(&self, call: &Call, headers: &Headers) -> Result<(), RingError> {
        if headers.received == HEADER_BYTES && headers.theirs != call.header() {
            return Err(RingError::Protocol {
                rank: self.previous_rank,
                detail: call.contradiction(&headers.theirs),
            });
        }
        Ok(())
    }

    /// How many bytes a read gave; `None` where there are none yet.
    fn came(&self, result: io::Result<usize>) -> Result<Option<usize>, RingError> {
        match progress(result, self.previous_rank)? {
            Some(0) => Err(RingError::PeerLost {
                rank: self.previous_rank,
                source: None,
            }),
            other => Ok(other),
        }
    }

    /// Reads what is there of a header that has not come whole; that the connection has ended is
    /// known already.
    fn rest_of_header(&mut self, call: &Call, headers: &mut Headers) -> Result<(), RingError> {
        while headers.received < HEADER_BYTES {
            match self.previous.read(&mut headers.theirs[headers.received..]) {
                Ok(count) if count > 0 => headers.received += count,
                _ => return Ok(()),
            }
        }
        self.check(call, headers)
    }

    /// Sends the rest of this rank's header, if it can before the deadline.
    fn finish_header(&mut self, call: &Call, headers: &mut Headers) {
        let header = call.header();
        while headers.sent < HEADER_BYTES || self.next.is_behind() {
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

    /// Time left of a call.
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

    /// Sleeps until a connection can go on in the way that is asked for, or `limit` has passed.
    fn wait(&self, writes: bool, reads: bool, limit: Duration) -> Result<(), RingError> {
        let (next, previous) = (self.next.socket().as_fd(), self.previous.socket().as_fd());
        let mut interests = Vec::with_capacity(2);
        if writes {
            interests.push(PollFd::from_borrowed_fd(next, PollFlags::OUT));
        }
        if reads {
            // TLS may owe the other side an answer before that goes on.
            let behind = self.previous.is_behind();
            let answer = if behind {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            interests.push(PollFd::from_borrowed_fd(previous, PollFlags::IN | answer));
        }
        // A longer time than the type holds is looked at again after the longest that it holds.
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

/// What a read or write has done; `None` where it would have had to wait.
fn progress(result: io::Result<usize>, rank: usize) -> Result<Option<usize>, RingError> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if is_pause(&error) => Ok(None),
        Err(error) => Err(lost(rank, error)),
    }
}

/// Whether a socket only says that it would have to wait.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// What an error of a connection says of the rank at its other end.
pub(crate) fn lost(rank: usize, source: io::Error) -> RingError {
    let of_tls = source
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    if of_tls {
        return RingError::Untrusted { rank, source };
    }
    RingError::PeerLost {
        rank,
        source: Some(source),
    }
}
