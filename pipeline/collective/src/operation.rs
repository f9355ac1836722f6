//! The operations as streams of bytes. Values are sent from and received into the caller's buffer;
//! only values that are to be added are received into a buffer of their own.

use std::cmp::Ordering;
use std::ops::Range;

use crate::RingError;
use crate::link::Exchange;

/// Most bytes that are written, or read, before the other direction is served. The same limit for
/// both keeps the socket buffers short and therefore in the cache: a smaller limit for reading than
/// for writing halves the bandwidth between two ranks of one host.
const TURN_BYTES: usize = 512 << 10;
/// Fewest bytes that are forwarded at once, if more follow.
const MIN_FORWARD_BYTES: usize = 128 << 10;
/// Most bytes that a rank of an all-reduce sends ahead of the bytes that it has received. More
/// would wait in socket buffers, outside the cache. It allows 4 GB/s at a round trip of 1 ms.
const MAX_AHEAD_BYTES: usize = 4 << 20;
/// Most bytes of one rank's block in a gather.
const MAX_GATHER_BYTES: u64 = 1 << 30;
/// Bytes of the length before each block of a gather.
const LENGTH_BYTES: usize = size_of::<u64>();

// The bytes of a value in memory are those that are sent.
const _: () = assert!(cfg!(target_endian = "little"));

/// The bytes to send next of a message of `total` bytes, the first `ready` of which may be sent.
fn turn(bytes: &[u8], total: usize, sent: usize, ready: usize) -> &[u8] {
    if ready < total && ready - sent < MIN_FORWARD_BYTES {
        return &[];
    }
    &bytes[sent..ready.min(sent + TURN_BYTES)]
}

/// A sum over all ranks by a pipelined ring: reduce-scatter, then all-gather. In hop h a rank sends
/// the chunk that it received in hop h - 1, and its own in hop 0. The received part of a chunk is
/// forwarded while the rest arrives.
///
/// Values are not overwritten before they are sent: a chunk is received again only as the complete
/// sum, which includes what this rank sent of it.
pub(crate) struct AllReduce<'a> {
    values: &'a mut [f32],
    rank: usize,
    world_size: usize,
    sending: Cursor,
    receiving: Cursor,
    /// Received values that are to be added.
    addends: Vec<f32>,
    /// Bytes at the start of `addends` that belong to an incomplete value.
    partial: usize,
    /// Bytes sent so far.
    sent: usize,
    /// Bytes received so far.
    received: usize,
}

/// A position in a stream of hops: a hop, and the bytes of its chunk that have moved.
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

    /// How many of the `total` bytes of this hop may be sent: in hop h the bytes that were received
    /// in hop h - 1, in hop 0 all of them.
    fn ready(self, receiving: Self, total: usize) -> usize {
        match (receiving.hop + 1).cmp(&self.hop) {
            Ordering::Less => 0,
            Ordering::Equal => receiving.bytes,
            Ordering::Greater => total,
        }
    }
}

impl<'a> AllReduce<'a> {
    /// - `addends`: a buffer that the caller reuses; its contents do not matter.
    pub(crate) fn new(
        values: &'a mut [f32],
        rank: usize,
        world_size: usize,
        mut addends: Vec<f32>,
    ) -> Self {
        addends.resize(TURN_BYTES / size_of::<f32>(), 0.0);
        let start = Cursor::default();
        let mut this = Self {
            values,
            rank,
            world_size,
            sending: start,
            receiving: start,
            addends,
            partial: 0,
            sent: 0,
            received: 0,
        };
        this.sending = this.advanced(start, 0, 0);
        this.receiving = this.advanced(start, 0, 1);
        this
    }

    /// Returns the buffer for the next call.
    pub(crate) fn into_addends(self) -> Vec<f32> {
        self.addends
    }

    fn hops(&self) -> usize {
        2 * (self.world_size - 1)
    }

    /// The chunk that is sent in hop `hop`. The chunk received in it is sent in the next.
    fn chunk(&self, hop: usize) -> Range<usize> {
        let n = self.world_size;
        chunk(self.values.len(), n, (self.rank + 2 * n - hop) % n)
    }

    /// `cursor` advanced by `count` bytes and past every complete chunk. The chunk of hop h is the
    /// one that is sent in hop h + `ahead`.
    fn advanced(&self, mut cursor: Cursor, count: usize, ahead: usize) -> Cursor {
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

    /// Whether received values are added (reduce-scatter) rather than stored (all-gather).
    fn adds(&self) -> bool {
        self.receiving.hop < self.world_size - 1
    }
}

impl Exchange for AllReduce<'_> {
    fn outgoing(&self) -> &[u8] {
        if self.has_sent_all() || self.sent > self.received + MAX_AHEAD_BYTES {
            return &[];
        }
        let chunk = self.chunk(self.sending.hop);
        let chunk: &[u8] = bytemuck::cast_slice(&self.values[chunk]);
        let ready = self.sending.ready(self.receiving, chunk.len());
        turn(chunk, chunk.len(), self.sending.bytes, ready)
    }

    fn sent(&mut self, count: usize) {
        self.sent += count;
        self.sending = self.advanced(self.sending, count, 0);
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
            let addends: &mut [u8] = bytemuck::cast_slice_mut(&mut self.addends);
            return &mut addends[self.partial..left.min(TURN_BYTES)];
        }
        let chunk: &mut [u8] = bytemuck::cast_slice_mut(&mut self.values[chunk]);
        let end = chunk.len().min(bytes + TURN_BYTES);
        &mut chunk[bytes..end]
    }

    fn received(&mut self, count: usize) -> Result<(), RingError> {
        self.received += count;
        if !self.adds() {
            self.receiving = self.advanced(self.receiving, count, 1);
            return Ok(());
        }
        const VALUE: usize = size_of::<f32>();
        let available = self.partial + count;
        let (complete, start) = (available / VALUE, self.receiving.bytes / VALUE);
        let chunk = self.chunk(self.receiving.hop + 1);
        let values = &mut self.values[chunk][start..start + complete];
        for (value, other) in values.iter_mut().zip(&self.addends[..complete]) {
            *value += other;
        }
        let addends: &mut [u8] = bytemuck::cast_slice_mut(&mut self.addends);
        addends.copy_within(complete * VALUE..available, 0);
        self.partial = available % VALUE;
        self.receiving = self.advanced(self.receiving, complete * VALUE, 1);
        Ok(())
    }
}

/// The blocks of all ranks, each after its length. A rank sends its own block, then every block
/// that it receives except that of the rank it sends to.
pub(crate) struct AllGather {
    rank: usize,
    /// The received part of each block in rank order, as it is sent: length, then bytes.
    blocks: Vec<Vec<u8>>,
    /// Bytes of each block with its length; before the length is known, the bytes of the length.
    sizes: Vec<usize>,
    sending: Cursor,
    receiving: Cursor,
}

impl AllGather {
    /// # Errors
    /// [`RingError::TooLarge`].
    pub(crate) fn new(own: &[u8], rank: usize, world_size: usize) -> Result<Self, RingError> {
        let length = check_length(rank, own.len() as u64)?;
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
        let strip_length = |mut block: Vec<u8>| {
            block.drain(..LENGTH_BYTES);
            block
        };
        self.blocks.into_iter().map(strip_length).collect()
    }

    /// The rank whose block is sent in hop `hop`. The block received in it is sent in the next.
    fn owner(&self, hop: usize) -> usize {
        (self.rank + self.blocks.len() - hop) % self.blocks.len()
    }

    fn hops(&self) -> usize {
        self.blocks.len() - 1
    }
}

fn check_length(rank: usize, bytes: u64) -> Result<usize, RingError> {
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
        // The block grows as it is received, so that a false length allocates no memory.
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
            self.sizes[owner] += check_length(owner, length)?;
        }
        if self.receiving.bytes == self.sizes[owner] {
            self.receiving = self.receiving.next_hop();
        }
        Ok(())
    }
}

/// The root's bytes. Each rank forwards them as they arrive, except the rank before the root.
pub(crate) struct Broadcast<'a> {
    bytes: &'a mut [u8],
    forwards: bool,
    sent: usize,
    received: usize,
}

impl<'a> Broadcast<'a> {
    pub(crate) fn new(values: &'a mut [f32], root: usize, rank: usize, world_size: usize) -> Self {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        Self {
            received: if rank == root { bytes.len() } else { 0 },
            forwards: (rank + 1) % world_size != root,
            sent: 0,
            bytes,
        }
    }
}

impl Exchange for Broadcast<'_> {
    fn outgoing(&self) -> &[u8] {
        if !self.forwards {
            return &[];
        }
        turn(self.bytes, self.bytes.len(), self.sent, self.received)
    }

    fn sent(&mut self, count: usize) {
        self.sent += count;
    }

    fn has_sent_all(&self) -> bool {
        !self.forwards || self.sent == self.bytes.len()
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

/// The values of chunk `index` of `chunks`. The sizes of the chunks differ by at most one.
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
    fn few_bytes_wait_for_more_unless_they_are_the_last() {
        let total = 3 * TURN_BYTES;
        let bytes = vec![0; total];
        let length = |sent, ready| turn(&bytes, total, sent, ready).len();
        assert_eq!(length(0, MIN_FORWARD_BYTES - 1), 0);
        assert_eq!(length(0, MIN_FORWARD_BYTES), MIN_FORWARD_BYTES);
        assert_eq!(length(5, total), TURN_BYTES);
        assert_eq!(length(total - 5, total), 5);
    }

    #[test]
    fn a_block_with_a_false_length_is_refused_with_its_rank() {
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
