//! Tokens of leases: a caller proves that a lease was granted to it.
//!
//! A certificate proves a role, and replicas share it, so it does not identify a worker. The token is
//! a hash of lease epoch, rank and worker (BLAKE3 keyed mode) with a key that only the coordinator's
//! database has. It cannot be guessed, needs no storage per lease, and stays valid over a restart.

use blake3::Hash;
use capstan_plan::id::{Digest, LeaseEpoch, WorkerId};

use crate::machine::Claim;

/// Creates and checks tokens.
pub(crate) struct Tokens {
    key: [u8; blake3::KEY_LEN],
}

impl Tokens {
    pub(crate) fn new(key: Digest) -> Self {
        Self { key: key.0 }
    }

    /// The token of a lease.
    pub(crate) fn of(&self, lease_epoch: LeaseEpoch, rank: usize, worker: &WorkerId) -> Vec<u8> {
        self.hash(lease_epoch, rank, worker).as_bytes().to_vec()
    }

    /// Whether `token` is the token of the claimed lease. Takes the same time for every token of the
    /// right length.
    pub(crate) fn is_valid(&self, claim: &Claim, token: &[u8]) -> bool {
        let hash = self.hash(claim.lease_epoch, claim.rank, &claim.worker);
        // Hashes are compared in constant time.
        Hash::from_slice(token).is_ok_and(|token| token == hash)
    }

    fn hash(&self, lease_epoch: LeaseEpoch, rank: usize, worker: &WorkerId) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&lease_epoch.generation.to_le_bytes());
        hasher.update(&lease_epoch.counter.to_le_bytes());
        hasher.update(&(rank as u64).to_le_bytes());
        hasher.update(worker.as_str().as_bytes());
        hasher.finalize()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// 244 random bits of the operating system in 32 bytes.
#[expect(clippy::disallowed_methods, reason = "a secret must be random")]
pub(crate) fn random() -> Digest {
    let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    Digest::of_parts([&first.as_bytes()[..], &second.as_bytes()[..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_for_one_lease_rank_and_worker() {
        let tokens = Tokens::new(Digest::of(b"key"));
        let claim = Claim {
            key: crate::machine::Key {
                run: "r".into(),
                stage: "s".into(),
                shard: "0".into(),
            },
            lease_epoch: LeaseEpoch {
                generation: 2,
                counter: 7,
            },
            rank: 1,
            worker: "w1".into(),
        };
        let token = tokens.of(claim.lease_epoch, claim.rank, &claim.worker);
        assert!(tokens.is_valid(&claim, &token));
        let others = [
            Claim {
                worker: "w2".into(),
                ..claim.clone()
            },
            Claim {
                rank: 0,
                ..claim.clone()
            },
            Claim {
                lease_epoch: LeaseEpoch {
                    counter: 8,
                    ..claim.lease_epoch
                },
                ..claim.clone()
            },
        ];
        for other in others {
            assert!(!tokens.is_valid(&other, &token));
        }
        for wrong in [&token[..31], &[], &[0; 32]] {
            assert!(!tokens.is_valid(&claim, wrong));
        }
        let elsewhere = Tokens::new(Digest::of(b"another key"));
        assert!(!elsewhere.is_valid(&claim, &token));
    }
}
