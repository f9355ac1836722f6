//! The TCP ring and its operations.

use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::collective::{encode, f32_of};
use crate::link::{Call, Operation, Receiver, SEGMENT_BYTES, Sender};
use crate::{Collective, RingError, RingPlan, connect};

/// Values of a full segment.
const SEGMENT_VALUES: usize = SEGMENT_BYTES / size_of::<f32>();
/// Segments of its own chunk that a rank queues ahead of what it has received.
const AHEAD: usize = 4;
/// Bytes of one rank's block in a gather at most.
const MAX_GATHER_BYTES: u64 = 1 << 30;

/// One rank's place in a ring of TCP connections.
pub struct Ring {
    rank: usize,
    world_size: usize,
    /// To the next and from the previous rank; `None` in a world of one.
    links: Option<(Sender, Receiver)>,
    sequence: u64,
    bytes_sent: u64,
    broken: bool,
}

impl Ring {
    /// Joins the ring of `plan`: dials the next rank, accepts the previous one, proves the secret
    /// to both and has them prove it.
    ///
    /// - `listener`: bound by the caller beforehand at `plan.peers[plan.rank]`. Strangers that
    ///   connect to it are turned away and hold up nothing.
    /// - `step`: the step that this rank would do next; all ranks must agree.
    /// - `deadline`: limit for the whole call.
    ///
    /// # Errors
    /// [`RingError::StaleEpoch`], [`RingError::ForeignRun`], [`RingError::WrongStep`],
    /// [`RingError::WrongRank`], [`RingError::Unauthenticated`]: a neighbour belongs elsewhere.
    /// [`RingError::NotJoined`]: a neighbour did not come in time.
    pub fn connect(
        plan: &RingPlan,
        listener: &TcpListener,
        step: u64,
        deadline: Instant,
    ) -> Result<Self, RingError> {
        plan.check()?;
        let links = if plan.world_size == 1 {
            None
        } else {
            let (next, previous) = connect::neighbours(plan, listener, step, deadline)?;
            let sender = Sender::spawn(next, plan.next()).map_err(|source| RingError::Setup {
                doing: "start the sending thread",
                source,
            })?;
            Some((sender, Receiver::new(previous, plan.previous())))
        };
        tracing::debug!(rank = plan.rank, world_size = plan.world_size, ring_epoch = %plan.ring_epoch, step, "ring joined");
        Ok(Self {
            rank: plan.rank,
            world_size: plan.world_size,
            links,
            sequence: 0,
            bytes_sent: 0,
            broken: false,
        })
    }

    /// CPU time that this rank's sending thread has taken so far; adding and copying are the
    /// caller's own.
    pub fn cpu_time(&self) -> Duration {
        let sender = self.links.as_ref().map(|(sender, _)| sender);
        sender.map_or(Duration::ZERO, Sender::cpu_time)
    }

    /// Runs one call; after an error the ring is broken and the neighbours are told by the end of
    /// their connections.
    fn call<T>(
        &mut self,
        operation: Operation,
        deadline: Instant,
        run: impl FnOnce(&mut Hop<'_>) -> Result<T, RingError>,
    ) -> Result<T, RingError> {
        if self.broken {
            return Err(RingError::Broken);
        }
        self.sequence += 1;
        let (sender, receiver) = self.links.as_mut().expect("callers handle a world of one");
        let mut hop = Hop {
            rank: self.rank,
            world_size: self.world_size,
            call: Call {
                operation,
                sequence: self.sequence,
                deadline,
            },
            sender,
            receiver,
            bytes_sent: &mut self.bytes_sent,
        };
        let result = run(&mut hop);
        if let Err(error) = &result {
            self.broken = true;
            if matches!(error, RingError::Protocol { .. }) {
                // The neighbour is to learn what this rank called, not only that it is gone.
                sender.flush();
            }
            sender.abort();
            receiver.abort();
        }
        result
    }
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    /// Pipelined ring: reduce-scatter, then all-gather, a received segment being added and
    /// passed on while the next one arrives. Each rank sends `2(n-1)/n * size_of_val(values)`
    /// bytes. Chunk `c` is summed as `((x_c + x_c+1) + x_c+2) ..`, ranks modulo n.
    ///
    /// Cost model: nccl-tests, `doc/PERFORMANCE.md`.
    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        if self.links.is_none() {
            return Ok(());
        }
        self.call(Operation::AllReduce, deadline, |hop| hop.all_reduce(values))
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        if self.links.is_none() {
            return Ok(vec![bytes.to_vec()]);
        }
        self.call(Operation::AllGather, deadline, |hop| hop.all_gather(bytes))
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        if root >= self.world_size {
            return Err(RingError::NoSuchRank {
                rank: root,
                world_size: self.world_size,
            });
        }
        if self.links.is_none() {
            return Ok(());
        }
        self.call(Operation::Broadcast, deadline, |hop| {
            hop.broadcast(values, root)
        })
    }

    fn bytes_reduced(&self) -> u64 {
        self.bytes_sent
    }
}

/// One call on the links.
struct Hop<'a> {
    rank: usize,
    world_size: usize,
    call: Call,
    sender: &'a mut Sender,
    receiver: &'a mut Receiver,
    bytes_sent: &'a mut u64,
}

impl Hop<'_> {
    fn all_reduce(&mut self, values: &mut [f32]) -> Result<(), RingError> {
        let (n, len) = (self.world_size, values.len());
        let hops = 2 * (n - 1);
        let rank = self.rank;
        // In hop h a rank sends the chunk that it received in hop h - 1, its own in hop 0.
        let of_hop = |hop: usize| segments(chunk(len, n, (rank + 2 * n - hop) % n));
        let ahead = of_hop(0).count().min(AHEAD);
        // One segment goes out for each that comes in, so little is queued, and none before its
        // sum has come in: the stream out is the stream in, delayed by this rank's own chunk.
        let mut outgoing = (0..hops).flat_map(of_hop);
        for segment in outgoing.by_ref().take(ahead) {
            self.send_values(&values[segment])?;
        }
        for hop in 0..hops {
            for segment in of_hop(hop + 1) {
                let target = &mut values[segment];
                let bytes = self.receiver.receive(&self.call, size_of_val(target))?;
                if hop < n - 1 {
                    add(target, bytes);
                } else {
                    copy(target, bytes);
                }
                if let Some(segment) = outgoing.next() {
                    self.send_values(&values[segment])?;
                }
            }
        }
        for segment in outgoing {
            self.send_values(&values[segment])?;
        }
        Ok(())
    }

    fn all_gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, RingError> {
        let n = self.world_size;
        self.limit(self.rank, own.len() as u64)?;
        self.send_bytes(&(own.len() as u64).to_le_bytes())?;
        for segment in own.chunks(SEGMENT_BYTES) {
            self.send_bytes(segment)?;
        }
        let mut blocks: Vec<Vec<u8>> = vec![Vec::new(); n];
        blocks[self.rank] = own.to_vec();
        for hop in 0..n - 1 {
            let owner = (self.rank + n - 1 - hop) % n;
            let passes_on = hop + 1 < n - 1;
            let length = self.receiver.receive(&self.call, size_of::<u64>())?;
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes were asked for"));
            self.limit(owner, length)?;
            if passes_on {
                self.send_bytes(&length.to_le_bytes())?;
            }
            let block = &mut blocks[owner];
            let mut left = length as usize;
            while left > 0 {
                let bytes = self.receiver.receive(&self.call, left.min(SEGMENT_BYTES))?;
                left -= bytes.len();
                block.extend_from_slice(bytes);
                if passes_on {
                    let from = block.len() - bytes.len();
                    let (call, sent) = (&self.call, block.len() - from);
                    self.sender
                        .send(call, sent, |out| out.extend_from_slice(&block[from..]))?;
                    *self.bytes_sent += sent as u64;
                }
            }
        }
        Ok(blocks)
    }

    fn broadcast(&mut self, values: &mut [f32], root: usize) -> Result<(), RingError> {
        let (is_root, passes_on) = (self.rank == root, (self.rank + 1) % self.world_size != root);
        for segment in segments(0..values.len()) {
            let target = &mut values[segment];
            if !is_root {
                copy(
                    target,
                    self.receiver.receive(&self.call, size_of_val(target))?,
                );
            }
            if passes_on {
                self.send_values(target)?;
            }
        }
        Ok(())
    }

    fn send_values(&mut self, values: &[f32]) -> Result<(), RingError> {
        let bytes = size_of_val(values);
        *self.bytes_sent += bytes as u64;
        self.sender
            .send(&self.call, bytes, |out| encode(values, out))
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), RingError> {
        *self.bytes_sent += bytes.len() as u64;
        self.sender
            .send(&self.call, bytes.len(), |out| out.extend_from_slice(bytes))
    }

    fn limit(&self, rank: usize, bytes: u64) -> Result<(), RingError> {
        if bytes > MAX_GATHER_BYTES {
            return Err(RingError::TooLarge {
                rank,
                bytes,
                limit: MAX_GATHER_BYTES,
            });
        }
        Ok(())
    }
}

/// The values of chunk `index` of `chunks`, as even as can be.
fn chunk(len: usize, chunks: usize, index: usize) -> Range<usize> {
    let (base, longer) = (len / chunks, len % chunks);
    let start = index * base + index.min(longer);
    start..start + base + usize::from(index < longer)
}

/// `range` in pieces of a segment; none for an empty range.
fn segments(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(SEGMENT_VALUES)
        .map(move |start| start..end.min(start + SEGMENT_VALUES))
}

fn add(values: &mut [f32], bytes: &[u8]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
        *value += f32_of(bytes);
    }
}

fn copy(values: &mut [f32], bytes: &[u8]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32_of(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_value_once() {
        for len in [0, 1, 2, 7, 100, 101] {
            for chunks in 1..6 {
                let all: Vec<usize> = (0..chunks).flat_map(|i| chunk(len, chunks, i)).collect();
                assert_eq!(all, (0..len).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn segments_cover_a_range_and_fit_a_frame() {
        let range = 5..5 + 3 * SEGMENT_VALUES + 1;
        let pieces: Vec<_> = segments(range.clone()).collect();
        assert_eq!(pieces.len(), 4);
        assert!(pieces.iter().all(|p| p.len() <= SEGMENT_VALUES));
        assert_eq!(
            pieces.into_iter().flatten().collect::<Vec<_>>(),
            range.collect::<Vec<_>>()
        );
    }
}
