//! The handshake of two neighbours: their claims, and the proof that both know the secret.
//!
//! ```text
//! dialler                                   acceptor
//!   hello{.., nonce}  ───────────────────────►
//!   ◄─────────────────  hello{.., nonce}, mac("accept", both hellos)
//!   mac("dial", both hellos)  ───────────────►
//! ```
//! The keyed hash covers both nonces, so that a recorded handshake proves nothing, and a label for
//! the direction, so that a proof cannot be reflected. Both sides send their proof before they
//! check the other's claims, so that a stale or misplaced rank learns why it is refused.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::{RingEpoch, RingError, RingPlan, Secret, clock};

/// First bytes of every hello. The last byte is the version of the protocol.
const MAGIC: [u8; 8] = *b"cpsring\x02";
/// Bytes of an encoded hello.
pub(crate) const HELLO_BYTES: usize = 8 + 32 + 8 * 5 + 32;
/// Bytes of a proof.
pub(crate) const MAC_BYTES: usize = 32;

/// The claims of a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    run: [u8; 32],
    ring_epoch: RingEpoch,
    pub(crate) rank: usize,
    world_size: usize,
    step: u64,
    nonce: [u8; 32],
}

impl Hello {
    /// This rank's hello with a fresh nonce.
    pub(crate) fn new(plan: &RingPlan, step: u64) -> Self {
        Self {
            run: *blake3::hash(plan.run.as_bytes()).as_bytes(),
            ring_epoch: plan.ring_epoch,
            rank: plan.rank,
            world_size: plan.world_size,
            step,
            nonce: nonce(&plan.secret),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = Vec::with_capacity(HELLO_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.run);
        for number in [
            self.ring_epoch.generation,
            self.ring_epoch.counter,
            self.rank as u64,
            self.world_size as u64,
            self.step,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.nonce);
        out.try_into().expect("the fields fill HELLO_BYTES exactly")
    }

    /// Decodes a hello. Returns `None` if the bytes belong to another protocol.
    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_at(8);
        let (run, rest) = rest.split_at(32);
        let (numbers, nonce) = rest.split_at(40);
        let mut numbers = numbers
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("chunks of eight")));
        let mut number = || numbers.next().expect("five numbers in forty bytes");
        if magic != MAGIC {
            return None;
        }
        Some(Self {
            run: run.try_into().expect("32 bytes"),
            ring_epoch: RingEpoch {
                generation: number(),
                counter: number(),
            },
            rank: usize::try_from(number()).ok()?,
            world_size: usize::try_from(number()).ok()?,
            step: number(),
            nonce: nonce.try_into().expect("32 bytes"),
        })
    }
}

/// The side that sends a proof.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Dial,
    Accept,
}

/// The proof of one side: a keyed hash over both encoded hellos.
pub(crate) fn proof(
    secret: &Secret,
    side: Side,
    dialler: &[u8; HELLO_BYTES],
    acceptor: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(match side {
        Side::Dial => b"dial..",
        Side::Accept => b"accept",
    });
    hasher.update(dialler);
    hasher.update(acceptor);
    hasher.finalize()
}

/// Checks that `theirs` claims to be the neighbour `expected` of this ring.
pub(crate) fn check_claims(
    plan: &RingPlan,
    mine: &Hello,
    theirs: &Hello,
    expected: usize,
) -> Result<(), RingError> {
    let rank = theirs.rank;
    if theirs.run != mine.run {
        return Err(RingError::ForeignRun {
            rank,
            run: plan.run.clone(),
        });
    }
    let (epoch, peer_epoch) = (mine.ring_epoch, theirs.ring_epoch);
    if peer_epoch > epoch {
        return Err(RingError::StaleEpoch {
            rank,
            mine: epoch,
            theirs: peer_epoch,
        });
    }
    if peer_epoch < epoch {
        return Err(RingError::StalePeer {
            rank,
            mine: epoch,
            theirs: peer_epoch,
        });
    }
    if rank != expected || theirs.world_size != mine.world_size {
        return Err(RingError::WrongRank {
            expected,
            world_size: mine.world_size,
            rank,
            peer_world_size: theirs.world_size,
        });
    }
    if theirs.step != mine.step {
        return Err(RingError::WrongStep {
            rank,
            mine: mine.step,
            theirs: theirs.step,
        });
    }
    Ok(())
}

/// A value that was never used before and that cannot be predicted without the secret.
///
/// A nonce only has to be fresh. The clock provides that; the seed of the standard library's hash
/// maps adds entropy.
#[expect(
    clippy::disallowed_methods,
    reason = "a nonce must not repeat; no result depends on it"
)]
fn nonce(secret: &Secret) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(&clock::unix_nanos().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    for _ in 0..4 {
        hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}
