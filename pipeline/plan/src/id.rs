//! Identifiers. Every id is a newtype, so that a shard is never taken for a run.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// 32 bytes of blake3, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of several parts; each part's length is hashed before it, so
    /// that no two lists of parts share a digest.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = PartsHasher::default();
        for part in parts {
            hasher.push(part);
        }
        hasher.finish()
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|hash| Self(*hash.as_bytes()))
    }

    /// The first eight bytes as a number, for ordering by hash.
    pub fn prefix_u64(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight of 32 bytes"))
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not a digest of 64 hexadecimal digits"))
        })
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

digest_id! {
    /// One picture as found on one page: blake3(canonical image URL or archive key, page URL).
    PairId
}
digest_id! {
    /// One text of a pair: blake3(pair id, origin, text).
    TextId
}
digest_id! {
    /// A model folder: blake3 over its file names and their digests, sorted.
    ModelDigest
}
digest_id! {
    /// What a task is made of; equal recipes give equal outputs. See [`crate::recipe`].
    RecipeHash
}

impl PairId {
    /// The id of the picture at `image` (canonical URL or archive key) on `page`.
    pub fn new(image: &str, page: &str) -> Self {
        Self(Digest::of_parts([image.as_bytes(), page.as_bytes()]))
    }
}

impl TextId {
    /// The id of `text` of `origin` at `pair`.
    pub fn new(pair: &PairId, origin: crate::row::Origin, text: &str) -> Self {
        Self(Digest::of_parts([
            &pair.0.0[..],
            origin.as_str().as_bytes(),
            text.as_bytes(),
        ]))
    }
}

/// [`Digest::of_parts`], one part at a time.
#[derive(Debug, Clone, Default)]
pub struct PartsHasher(blake3::Hasher);

impl PartsHasher {
    /// Adds a part.
    pub fn push(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// The digest of the parts so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// What all names share, whatever holds their text.
macro_rules! text_of_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
    };
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        text_of_name! { $name }
    };
}

/// A name that many records repeat: a clone shares its text.
macro_rules! shared_name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        text_of_name! { $name }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

shared_name_id! {
    /// One submission of a pipeline. Names a folder of the store, so: `[a-z0-9-]`.
    RunId
}
shared_name_id! {
    /// A stage by the name that the pipeline file gives it.
    StageName
}
name_id! {
    /// A part of a stage: `all`, `00007`, `pages-0-00003`. Names a commit file.
    ShardId
}

impl ShardId {
    /// The shard of this ordinal. Names sort as the ordinals do, also behind a common prefix.
    ///
    /// Ordinals below 100,000 have five digits. A longer one has a letter before its digits
    /// that stands for their number: `99999`, `a100000`, `a999999`, `b1000000`.
    pub fn ordinal(ordinal: usize) -> Self {
        let digits = format!("{ordinal:05}");
        match digits.len() {
            5 => Self(digits),
            // At most 20 digits, so the letter is at most `o`.
            length => Self(format!("{}{digits}", char::from(b'a' + (length - 6) as u8))),
        }
    }
}
name_id! {
    /// A dataset by name; its versions are numbered.
    DatasetName
}
name_id! {
    /// One attempt of one task by one worker, never reused. Recorded in commits, never in rows.
    AttemptId
}
shared_name_id! {
    /// What a model computes on, as far as results differ by it: `cpu-avx512`, `cpu-avx2`,
    /// `cuda-sm90`.
    DeviceKind
}
shared_name_id! {
    /// A worker process as it calls itself when it registers.
    WorkerId
}

/// (generation of the coordinator, counter): ordered, never reused. Zombies hold an older one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
pub struct LeaseEpoch {
    /// The coordinator's generation, from `coordinator/generations/<n>.json`.
    pub generation: u64,
    /// Counts leases within the generation.
    pub counter: u64,
}

impl fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.counter)
    }
}

/// The epoch of a ring of ranks; ordered as [`LeaseEpoch`] is.
pub type RingEpoch = LeaseEpoch;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(ordinal: usize, prefix: &str) -> String {
        format!("{prefix}{}", ShardId::ordinal(ordinal))
    }

    #[test]
    fn names_are_written_as_plain_text() {
        let (run, shard) = (RunId::from("small-7"), ShardId::from("00007"));
        let text = serde_json::to_string(&(&run, &shard)).unwrap();
        assert_eq!(text, r#"["small-7","00007"]"#);
        let read: (RunId, ShardId) = serde_json::from_str(&text).unwrap();
        assert_eq!(read, (run, shard));
    }

    #[test]
    fn ordinals_below_100_000_have_five_digits() {
        let names = [0, 7, 99_999, 100_000, 999_999, 1_000_000];
        let names = names.map(|ordinal| ShardId::ordinal(ordinal).0);
        let expected = ["00000", "00007", "99999", "a100000", "a999999", "b1000000"];
        assert_eq!(names, expected);
        assert_eq!(ShardId::ordinal(usize::MAX).0, "o18446744073709551615");
    }

    proptest! {
        /// Digits are drawn first, so that pairs around every change of length are met.
        #[test]
        fn names_sort_as_their_ordinals(
            a in (0u32..20, any::<u64>()),
            b in (0u32..20, any::<u64>()),
            prefix in prop_oneof![Just(""), Just("pages-0-"), Just("images-")],
        ) {
            let [a, b] = [a, b].map(|(digits, n)| (n % 10u64.saturating_pow(digits)) as usize);
            for (a, b) in [(a, b), (a, a.saturating_add(1))] {
                prop_assert_eq!(name(a, prefix).cmp(&name(b, prefix)), a.cmp(&b));
            }
        }
    }
}
