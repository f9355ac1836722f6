//! Recipe hashes: what a task's output is a function of.
//!
//! Names of stages and datasets never shape an output, so callers leave them out: a pipeline whose
//! stages have other names adopts the same commits.

use serde::Serialize;

use crate::id::{DeviceKind, Digest, RecipeHash};
use crate::stage::StageKind;

/// What the recipes of the tasks of a step have in common. Serialised as JSON with its fields in
/// this order, and followed by [`PerTask`] in the same object.
#[derive(Serialize)]
struct Common<'a, C> {
    kind: &'a str,
    version: u32,
    step: &'a str,
    seed: Option<u64>,
    config: &'a C,
    models: &'a [Digest],
}

/// What is particular to a task.
#[derive(Serialize)]
struct PerTask<'a> {
    inputs: &'a [Digest],
    // Left out where nothing is computed with a model, so that those recipes have no such part.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a DeviceKind>,
}

/// The recipe of one task of a stage of kind `K`.
///
/// - `step`: which step of the stage (`pages`, `images`); empty for a stage of one step.
/// - `seed`: the run's, for stages that draw; `None` where nothing is drawn.
/// - `config`: the effective settings that shape the output, without names of stages.
/// - `models`, `inputs`: digests of models, and of rows without times.
pub fn hash<K: StageKind>(
    step: &str,
    seed: Option<u64>,
    config: &impl Serialize,
    models: &[Digest],
    inputs: &[Digest],
) -> RecipeHash {
    Recipes::new::<K>(step, seed, config, models).hash(inputs, None)
}

/// The recipe of a task that computes with a model, as [`hash`] but for the device.
///
/// - `device`: equal settings and inputs give other numbers on another kind of device.
pub fn of_device<K: StageKind>(
    step: &str,
    seed: Option<u64>,
    config: &impl Serialize,
    models: &[Digest],
    inputs: &[Digest],
    device: Option<&DeviceKind>,
) -> RecipeHash {
    Recipes::new::<K>(step, seed, config, models).hash(inputs, device)
}

/// Recipes of tasks that differ in their inputs alone. Settings may hold half a million queries, so
/// they are hashed once and not once per task.
#[derive(Debug, Clone)]
pub(crate) struct Recipes(blake3::Hasher);

impl Recipes {
    /// The arguments are those of [`hash`].
    pub(crate) fn new<K: StageKind>(
        step: &str,
        seed: Option<u64>,
        config: &impl Serialize,
        models: &[Digest],
    ) -> Self {
        let common = Common {
            kind: K::NAME,
            version: K::VERSION,
            step,
            seed,
            config,
            models,
        };
        let json = json(&common);
        let mut hasher = blake3::Hasher::new();
        // The object goes on with the inputs.
        hasher.update(json.strip_suffix(b"}").unwrap_or(&json));
        Self(hasher)
    }

    /// The recipe of the task with these inputs.
    pub(crate) fn hash(&self, inputs: &[Digest], device: Option<&DeviceKind>) -> RecipeHash {
        let json = json(&PerTask { inputs, device });
        let mut hasher = self.0.clone();
        hasher.update(b",");
        hasher.update(json.strip_prefix(b"{").unwrap_or(&json));
        RecipeHash(Digest(*hasher.finalize().as_bytes()))
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("settings are plain data")
}

/// The recipe input of an absent dataset: the digest of no shards.
pub(crate) fn no_shards() -> Digest {
    Digest::of_parts([])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Curate;

    /// A recipe in one piece. Serialised as JSON with its fields in this order.
    #[derive(Serialize)]
    struct Recipe<'a> {
        kind: &'a str,
        version: u32,
        step: &'a str,
        seed: Option<u64>,
        config: &'a str,
        models: &'a [Digest],
        inputs: &'a [Digest],
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<&'a DeviceKind>,
    }

    #[test]
    fn hashing_in_two_pieces_gives_the_hash_of_the_whole_json() {
        let digests = [Digest::of(b"a"), Digest::of(b"b")];
        let device = DeviceKind::from("cpu-avx2");
        // Longer than a chunk of the hash.
        let config = "queries".repeat(1_000);
        for (models, inputs, device) in [
            (&digests[..0], &digests[..0], None),
            (&digests[..1], &digests[..], Some(&device)),
        ] {
            let whole = json(&Recipe {
                kind: Curate::NAME,
                version: Curate::VERSION,
                step: "pages",
                seed: Some(7),
                config: &config,
                models,
                inputs,
                device,
            });
            let recipes = Recipes::new::<Curate>("pages", Some(7), &config, models);
            let expected = RecipeHash(Digest::of(&whole));
            assert_eq!(recipes.hash(inputs, device), expected);
        }
    }
}
