//! Tokens of grants: a caller proves that a lease was granted to it.
//!
//! A certificate proves a role, and replicas share it, so it does not tell one worker from another.
//! The token of a grant is a hash of lease epoch, rank and worker under a key that only the
//! coordinator's database holds (BLAKE3 keyed mode). Nobody can guess it, nothing is stored for each
//! lease, and tokens survive a restart with the key.

use blake3::Hash;
use capstan_plan::id::{Digest, LeaseEpoch, WorkerId};

use crate::machine::Claim;

/// Makes tokens and checks them.
pub(crate) struct Tokens {
    key: [u8; blake3::KEY_LEN],
}

impl Tokens {
    pub(crate) fn new(key: Digest) -> Self {
        Self { key: key.0 }
    }

    /// The token of a grant.
    pub(crate) fn of(&self, lease_epoch: LeaseEpoch, rank: usize, worker: &WorkerId) -> Vec<u8> {
        self.hash(lease_epoch, rank, worker).as_bytes().to_vec()
    }

    /// Whether `token` is that of the claimed lease. Takes as long for a wrong one as for a right one.
    pub(crate) fn is_valid(&self, claim: &Claim, token: &[u8]) -> bool {
        let hash = self.hash(claim.lease_epoch, claim.rank, &claim.worker);
        // Hashes compare in constant time.
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

/// 244 bits of the operating system's randomness in 32 bytes.
#[expect(clippy::disallowed_methods, reason = "a secret must be random")]
pub(crate) fn random() -> Digest {
    let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    Digest::of_parts([&first.as_bytes()[..], &second.as_bytes()[..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_one_lease_rank_and_worker() {
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
