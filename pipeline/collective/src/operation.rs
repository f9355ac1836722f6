//! The operations as streams of bytes. Values go out from where they lie and come in to where they
//! belong; only what is to be added is read aside.

use std::cmp::Ordering;
use std::ops::Range;

use crate::RingError;
use crate::link::Exchange;

/// Bytes that go out, and come in, before the other direction has its turn. Turns of one size keep
/// what lies in the sockets short, and so in the cache: smaller ones to read than to write halve
/// the bandwidth between two ranks of one host.
const TURN_BYTES: usize = 512 << 10;
/// Bytes that are waited for before they are passed on, where more are to follow.
const WORTH_SENDING: usize = 128 << 10;
/// Bytes that a rank of an all-reduce may have sent beyond those that it has received: what is more
/// would wait in sockets, outside the cache. 4 GB/s where an answer takes a millisecond.
const MOST_AHEAD: usize = 4 << 20;
/// Bytes of one rank's block in a gather at most.
const MAX_GATHER_BYTES: u64 = 1 << 30;
/// Bytes that say how long a block of a gather is.
const LENGTH_BYTES: usize = size_of::<u64>();

// Values lie in memory as they travel.
const _: () = assert!(cfg!(target_endian = "little"));

/// What goes out next of a message of `total` bytes, the first `ready` of which may.
fn turn(bytes: &[u8], total: usize, sent: usize, ready: usize) -> &[u8] {
    if ready < total && ready - sent < WORTH_SENDING {
        return &[];
    }
    &bytes[sent..ready.min(sent + TURN_BYTES)]
}

/// A sum over all ranks by a pipelined ring: reduce-scatter, then all-gather. In hop h a rank
/// sends the chunk that it received in hop h - 1, its own in hop 0; what has come of a chunk goes
/// on while the rest is on its way.
///
/// Nothing is overwritten that has not gone out: a chunk comes again only as the sum, which holds
/// what this rank sent of it.
pub(crate) struct AllReduce<'a> {
    values: &'a mut [f32],
    rank: usize,
    world_size: usize,
    sending: Cursor,
    receiving: Cursor,
    /// Values that are to be added; the first `waiting` bytes of the next one are in.
    aside: Vec<f32>,
    waiting: usize,
    /// Bytes that are out, and that are in.
    sent: usize,
    received: usize,
}

/// A place in a stream of hops: a hop, and bytes of what moves in it.
#[derive(Clone, Copy, Default)]
struct Cursor {
    hop: usize,
    bytes: usize,
}

impl Cursor {
    fn next_hop(self) -> Self {
        Self {
            hop: self.hop + 1,
            bytes: 0,
        }
    }

    /// What of the `total` bytes that are sent in this hop may go out: in hop h those that were
    /// received in hop h - 1, all of them in hop 0.
    fn ready(self, receiving: Self, total: usize) -> usize {
        match (receiving.hop + 1).cmp(&self.hop) {
            Ordering::Less => 0,
            Ordering::Equal => receiving.bytes,
            Ordering::Greater => total,
        }
    }
}

impl<'a> AllReduce<'a> {
    /// - `aside`: kept from call to call by the caller; its contents do not matter.
    pub(crate) fn new(
        values: &'a mut [f32],
        rank: usize,
        world_size: usize,
        mut aside: Vec<f32>,
    ) -> Self {
        aside.resize(TURN_BYTES / size_of::<f32>(), 0.0);
        let start = Cursor::default();
        let mut this = Self {
            values,
            rank,
            world_size,
            sending: start,
            receiving: start,
            aside,
            waiting: 0,
            sent: 0,
            received: 0,
        };
        this.sending = this.moved(start, 0, 0);
        this.receiving = this.moved(start, 0, 1);
        this
    }

    /// The room that was lent.
    pub(crate) fn into_aside(self) -> Vec<f32> {
        self.aside
    }

    fn hops(&self) -> usize {
        2 * (self.world_size - 1)
    }

    /// The chunk that is sent in hop `hop`; the one received in it is sent in the next.
    fn chunk(&self, hop: usize) -> Range<usize> {
        let n = self.world_size;
        chunk(self.values.len(), n, (self.rank + 2 * n - hop) % n)
    }

    /// `cursor` after `count` bytes, past every chunk that is over; of hop h it counts the chunk
    /// that is sent in hop h + `ahead`.
    fn moved(&self, mut cursor: Cursor, count: usize, ahead: usize) -> Cursor {
        cursor.bytes += count;
        while cursor.hop < self.hops() {
            let bytes = self.chunk(cursor.hop + ahead).len() * size_of::<f32>();
            if cursor.bytes < bytes {
                break;
            }
            cursor = cursor.next_hop();
        }
        cursor
    }

    fn adds(&self) -> bool {
        self.receiving.hop < self.world_size - 1
    }
}

impl Exchange for AllReduce<'_> {
    fn outgoing(&self) -> &[u8] {
        if self.has_sent_all() || self.sent > self.received + MOST_AHEAD {
            return &[];
        }
        let chunk = self.chunk(self.sending.hop);
        let chunk: &[u8] = bytemuck::cast_slice(&self.values[chunk]);
        let ready = self.sending.ready(self.receiving, chunk.len());
        turn(chunk, chunk.len(), self.sending.bytes, ready)
    }

    fn sent(&mut self, count: usize) {
        self.sent += count;
        self.sending = self.moved(self.sending, count, 0);
    }

    fn has_sent_all(&self) -> bool {
        self.sending.hop == self.hops()
    }

    fn incoming(&mut self) -> &mut [u8] {
        let Cursor { hop, bytes } = self.receiving;
        if hop == self.hops() {
            return &mut [];
        }
        let chunk = self.chunk(hop + 1);
        if self.adds() {
            let left = chunk.len() * size_of::<f32>() - bytes;
            let aside: &mut [u8] = bytemuck::cast_slice_mut(&mut self.aside);
            return &mut aside[self.waiting..left.min(TURN_BYTES)];
        }
        let chunk: &mut [u8] = bytemuck::cast_slice_mut(&mut self.values[chunk]);
        let end = chunk.len().min(bytes + TURN_BYTES);
        &mut chunk[bytes..end]
    }

    fn received(&mut self, count: usize) -> Result<(), RingError> {
        self.received += count;
        if !self.adds() {
            self.receiving = self.moved(self.receiving, count, 1);
            return Ok(());
        }
        const VALUE: usize = size_of::<f32>();
        let there = self.waiting + count;
        let (whole, start) = (there / VALUE, self.receiving.bytes / VALUE);
        let chunk = self.chunk(self.receiving.hop + 1);
        let values = &mut self.values[chunk][start..start + whole];
        for (value, other) in values.iter_mut().zip(&self.aside[..whole]) {
            *value += other;
        }
        let aside: &mut [u8] = bytemuck::cast_slice_mut(&mut self.aside);
        aside.copy_within(whole * VALUE..there, 0);
        self.waiting = there % VALUE;
        self.receiving = self.moved(self.receiving, whole * VALUE, 1);
        Ok(())
    }
}

/// Every rank's block, each behind its length: a rank sends its own, then what it has received
/// but for the block of the rank that it sends to.
pub(crate) struct AllGather {
    rank: usize,
    /// In rank order, as they travel: length, then bytes. What has come of them.
    blocks: Vec<Vec<u8>>,
    /// Bytes of each; of one that has not begun to come, those that say its length.
    sizes: Vec<usize>,
    sending: Cursor,
    receiving: Cursor,
}

impl AllGather {
    /// # Errors
    /// [`RingError::TooLarge`].
    pub(crate) fn new(own: &[u8], rank: usize, world_size: usize) -> Result<Self, RingError> {
        let length = limited(rank, own.len() as u64)?;
        let mut this = Self {
            rank,
            blocks: vec![Vec::new(); world_size],
            sizes: vec![LENGTH_BYTES; world_size],
            sending: Cursor::default(),
            receiving: Cursor::default(),
        };
        let block = &mut this.blocks[rank];
        block.reserve_exact(LENGTH_BYTES + length);
        block.extend_from_slice(&(length as u64).to_le_bytes());
        block.extend_from_slice(own);
        this.sizes[rank] += length;
        Ok(this)
    }

    /// The blocks without their lengths.
    pub(crate) fn into_blocks(self) -> Vec<Vec<u8>> {
        let without = |mut block: Vec<u8>| {
            block.drain(..LENGTH_BYTES);
            block
        };
        self.blocks.into_iter().map(without).collect()
    }

    /// Whose block is sent in hop `hop`; the one received in it is sent in the next.
    fn owner(&self, hop: usize) -> usize {
        (self.rank + self.blocks.len() - hop) % self.blocks.len()
    }

    fn hops(&self) -> usize {
        self.blocks.len() - 1
    }
}

fn limited(rank: usize, bytes: u64) -> Result<usize, RingError> {
    if bytes > MAX_GATHER_BYTES {
        return Err(RingError::TooLarge {
            rank,
            bytes,
            limit: MAX_GATHER_BYTES,
        });
    }
    Ok(bytes as usize)
}

impl Exchange for AllGather {
    fn outgoing(&self) -> &[u8] {
        if self.has_sent_all() {
            return &[];
        }
        let owner = self.owner(self.sending.hop);
        let (block, size) = (&self.blocks[owner], self.sizes[owner]);
        let ready = self.sending.ready(self.receiving, size);
        turn(block, size, self.sending.bytes, ready)
    }

    fn sent(&mut self, count: usize) {
        if self.has_sent_all() {
            return;
        }
        self.sending.bytes += count;
        if self.sending.bytes == self.sizes[self.owner(self.sending.hop)] {
            self.sending = self.sending.next_hop();
        }
    }

    fn has_sent_all(&self) -> bool {
        self.sending.hop == self.hops()
    }

    fn incoming(&mut self) -> &mut [u8] {
        let Cursor { hop, bytes } = self.receiving;
        if hop == self.hops() {
            return &mut [];
        }
        let owner = self.owner(hop + 1);
        // Grows as it comes: a length that is a lie takes no memory.
        let end = self.sizes[owner].min(bytes + TURN_BYTES);
        let block = &mut self.blocks[owner];
        if block.len() < end {
            block.resize(end, 0);
        }
        &mut block[bytes..end]
    }

    fn received(&mut self, count: usize) -> Result<(), RingError> {
        let owner = self.owner(self.receiving.hop + 1);
        self.receiving.bytes += count;
        if self.receiving.bytes == LENGTH_BYTES {
            let length = &self.blocks[owner][..LENGTH_BYTES];
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes are sliced"));
            self.sizes[owner] += limited(owner, length)?;
        }
        if self.receiving.bytes == self.sizes[owner] {
            self.receiving = self.receiving.next_hop();
        }
        Ok(())
    }
}

/// The root's bytes, passed on as they come until they are round.
pub(crate) struct Broadcast<'a> {
    bytes: &'a mut [u8],
    passes_on: bool,
    sent: usize,
    received: usize,
}

impl<'a> Broadcast<'a> {
    pub(crate) fn new(values: &'a mut [f32], root: usize, rank: usize, world_size: usize) -> Self {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        Self {
            received: if rank == root { bytes.len() } else { 0 },
            passes_on: (rank + 1) % world_size != root,
            sent: 0,
            bytes,
        }
    }
}

impl Exchange for Broadcast<'_> {
    fn outgoing(&self) -> &[u8] {
        if !self.passes_on {
            return &[];
        }
        turn(self.bytes, self.bytes.len(), self.sent, self.received)
    }

    fn sent(&mut self, count: usize) {
        self.sent += count;
    }

    fn has_sent_all(&self) -> bool {
        !self.passes_on || self.sent == self.bytes.len()
    }

    fn incoming(&mut self) -> &mut [u8] {
        let end = self.bytes.len().min(self.received + TURN_BYTES);
        &mut self.bytes[self.received..end]
    }

    fn received(&mut self, count: usize) -> Result<(), RingError> {
        self.received += count;
        Ok(())
    }
}

/// The values of chunk `index` of `chunks`, as even as can be.
fn chunk(len: usize, chunks: usize, index: usize) -> Range<usize> {
    let (base, longer) = (len / chunks, len % chunks);
    let start = index * base + index.min(longer);
    start..start + base + usize::from(index < longer)
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
    fn a_few_bytes_wait_for_more_unless_they_are_the_last() {
        let total = 3 * TURN_BYTES;
        let bytes = vec![0; total];
        let length = |sent, ready| turn(&bytes, total, sent, ready).len();
        assert_eq!(length(0, WORTH_SENDING - 1), 0);
        assert_eq!(length(0, WORTH_SENDING), WORTH_SENDING);
        assert_eq!(length(5, total), TURN_BYTES);
        assert_eq!(length(total - 5, total), 5);
    }

    #[test]
    fn a_block_that_lies_about_its_length_is_refused_by_rank() {
        let mut gather = AllGather::new(b"own", 0, 2).unwrap();
        gather.incoming().copy_from_slice(&u64::MAX.to_le_bytes());
        let refused = gather.received(LENGTH_BYTES);
        assert!(
            matches!(
                refused,
                Err(RingError::TooLarge {
                    rank: 1,
                    bytes: u64::MAX,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}
