//! The two connections of a rank: frames out through a thread of their own, frames in by blocking
//! reads, each bounded by the deadline of the call that it belongs to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;

use crate::RingError;

/// Payload of a frame at most, and of every frame of a long message but the last.
pub(crate) const SEGMENT_BYTES: usize = 128 << 10;
/// operation (1), reserved (3), payload bytes (4), sequence number of the call (8).
const HEADER_BYTES: usize = 16;
/// Buffers kept for reuse.
const SPARE_BUFFERS: usize = 32;

/// What a call does; stands in every frame, so that ranks that call different things find out.
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

/// One call: what, the how-manieth of the ring, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) sequence: u64,
    pub(crate) deadline: Instant,
}

impl Call {
    fn header(&self, payload_bytes: usize) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = self.operation as u8;
        header[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        header[8..].copy_from_slice(&self.sequence.to_le_bytes());
        header
    }
}

/// A frame on its way out: header and payload in one buffer, one write.
struct Frame {
    bytes: Vec<u8>,
    call: Call,
}

/// The outgoing half. Frames queue without bound of their own: a call never queues more than the
/// bytes of its own message.
pub(crate) struct Sender {
    frames: Option<mpsc::Sender<Frame>>,
    spare: mpsc::Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Result<(), RingError>>>,
    /// Nanoseconds of CPU that the thread has taken.
    cpu_ns: Arc<AtomicU64>,
    stream: TcpStream,
    rank: usize,
}

impl Sender {
    /// Sends to `rank` over `stream`.
    pub(crate) fn spawn(stream: TcpStream, rank: usize) -> io::Result<Self> {
        let (frames, queue) = mpsc::channel::<Frame>();
        let (give_back, spare) = mpsc::sync_channel(SPARE_BUFFERS);
        let mut out = stream.try_clone()?;
        let cpu_ns = Arc::new(AtomicU64::new(0));
        let spent = cpu_ns.clone();
        let thread = std::thread::Builder::new()
            .name("ring-send".to_owned())
            .spawn(move || {
                for mut frame in queue {
                    write_all(&mut out, &frame.bytes, &frame.call, rank)?;
                    let so_far = ThreadTime::now().as_duration().as_nanos();
                    spent.store(so_far as u64, Ordering::Relaxed);
                    frame.bytes.clear();
                    // A full store of spares only means that this buffer is freed.
                    let _ = give_back.try_send(frame.bytes);
                }
                Ok(())
            })?;
        Ok(Self {
            frames: Some(frames),
            spare,
            thread: Some(thread),
            cpu_ns,
            stream,
            rank,
        })
    }

    /// CPU time that sending has taken so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    /// Queues one frame whose payload `fill` appends; at most [`SEGMENT_BYTES`].
    pub(crate) fn send(
        &mut self,
        call: &Call,
        payload_bytes: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), RingError> {
        debug_assert!(payload_bytes <= SEGMENT_BYTES);
        let mut bytes = self.spare.try_recv().unwrap_or_default();
        bytes.reserve(HEADER_BYTES + payload_bytes);
        bytes.extend_from_slice(&call.header(payload_bytes));
        fill(&mut bytes);
        debug_assert_eq!(bytes.len(), HEADER_BYTES + payload_bytes);
        let frames = self.frames.as_ref().ok_or(RingError::Broken)?;
        if frames.send(Frame { bytes, call: *call }).is_ok() {
            return Ok(());
        }
        // The thread ends before its queue does only with an error.
        Err(self.failure().unwrap_or(RingError::Broken))
    }

    /// The error that ended the sending thread, if one did; waits for the thread.
    fn failure(&mut self) -> Option<RingError> {
        self.frames = None;
        match self.thread.take()?.join() {
            Ok(result) => result.err(),
            Err(_) => Some(RingError::PeerLost {
                rank: self.rank,
                source: None,
            }),
        }
    }

    /// Waits until what is queued has gone out, each frame within the deadline of its call.
    /// Nothing can be sent afterwards.
    pub(crate) fn flush(&mut self) {
        self.failure();
    }

    /// Ends the connection at once, so that the neighbour learns of it.
    pub(crate) fn abort(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.failure();
    }
}

impl Drop for Sender {
    /// Queued frames still go out, each within the deadline of its call.
    fn drop(&mut self) {
        self.failure();
    }
}

/// The incoming half.
pub(crate) struct Receiver {
    stream: TcpStream,
    payload: Vec<u8>,
    rank: usize,
}

impl Receiver {
    /// Receives from `rank` over `stream`.
    pub(crate) fn new(stream: TcpStream, rank: usize) -> Self {
        Self {
            stream,
            payload: Vec::new(),
            rank,
        }
    }

    /// Ends the connection at once.
    pub(crate) fn abort(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The payload of the next frame, which must belong to `call` and hold `payload_bytes`.
    pub(crate) fn receive(
        &mut self,
        call: &Call,
        payload_bytes: usize,
    ) -> Result<&[u8], RingError> {
        let mut header = [0; HEADER_BYTES];
        read_exact(&mut self.stream, &mut header, call, self.rank)?;
        self.check(&header, call, payload_bytes)?;
        self.payload.resize(payload_bytes, 0);
        read_exact(&mut self.stream, &mut self.payload, call, self.rank)?;
        Ok(&self.payload)
    }

    fn check(
        &self,
        header: &[u8; HEADER_BYTES],
        call: &Call,
        payload_bytes: usize,
    ) -> Result<(), RingError> {
        let expected = call.header(payload_bytes);
        if *header == expected {
            return Ok(());
        }
        let detail = if header[0] != expected[0] || header[1..4] != [0; 3] {
            "it is in another operation"
        } else if header[8..] != expected[8..] {
            "it is in another call"
        } else {
            "its message has another length"
        };
        Err(RingError::Protocol {
            rank: self.rank,
            detail,
        })
    }
}

/// Writes all of `bytes` to `rank` before the deadline of `call`.
fn write_all(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    call: &Call,
    rank: usize,
) -> Result<(), RingError> {
    while !bytes.is_empty() {
        let remaining = remaining(call, rank)?;
        stream
            .set_write_timeout(Some(remaining))
            .map_err(|e| lost(rank, e))?;
        match stream.write(bytes) {
            Ok(0) => return Err(RingError::PeerLost { rank, source: None }),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(lost(rank, error)),
        }
    }
    Ok(())
}

/// Fills `buffer` from `rank` before the deadline of `call`.
fn read_exact(
    stream: &mut TcpStream,
    mut buffer: &mut [u8],
    call: &Call,
    rank: usize,
) -> Result<(), RingError> {
    while !buffer.is_empty() {
        let remaining = remaining(call, rank)?;
        stream
            .set_read_timeout(Some(remaining))
            .map_err(|e| lost(rank, e))?;
        match stream.read(buffer) {
            Ok(0) => return Err(RingError::PeerLost { rank, source: None }),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(lost(rank, error)),
        }
    }
    Ok(())
}

/// Time left of a call; never zero, which sockets take for "for ever".
fn remaining(call: &Call, rank: usize) -> Result<Duration, RingError> {
    let left = call.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(RingError::Deadline {
            operation: call.operation.name(),
            rank,
        });
    }
    Ok(left.max(Duration::from_millis(1)))
}

/// Whether a socket only says that its time slice passed.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn lost(rank: usize, source: io::Error) -> RingError {
    RingError::PeerLost {
        rank,
        source: Some(source),
    }
}
