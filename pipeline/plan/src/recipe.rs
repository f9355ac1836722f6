//! Recipe hashes: what a task's output is a function of.
//!
//! Names of stages and datasets never shape an output, so callers leave them out: a pipeline whose
//! stages have other names adopts the same commits.

use serde::Serialize;

use crate::commit::{File, Part};
use crate::id::{DeviceKind, Digest, RecipeHash, RunId};
use crate::stage::StageKind;
use crate::task::Data;

/// The parts of a recipe. Serialised as JSON with its fields in this order.
#[derive(Serialize)]
struct Recipe<'a, C> {
    kind: &'a str,
    version: u32,
    step: &'a str,
    seed: Option<u64>,
    config: &'a C,
    models: &'a [Digest],
    inputs: &'a [Digest],
    // Left out where nothing is computed with a model, so that those recipes have no such part.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a DeviceKind>,
}

/// What a recipe may depend on beside settings and inputs.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The run: part of a recipe only where the input is unknown until the task runs.
    pub run: &'a RunId,
    /// The run's seed: part of a recipe only where the task draws.
    pub seed: u64,
    /// What models compute on: part of a recipe only where the task computes with one. `None`
    /// where it is not known yet; such a recipe must not be looked up.
    pub device: Option<&'a DeviceKind>,
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
    of_device::<K>(step, seed, config, models, inputs, None)
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
    let recipe = Recipe {
        kind: K::NAME,
        version: K::VERSION,
        step,
        seed,
        config,
        models,
        inputs,
        device,
    };
    let json = serde_json::to_vec(&recipe).expect("settings are plain data");
    RecipeHash(Digest::of(&json))
}

/// Digests of the rows of these files.
pub(crate) fn rows<'a>(files: impl IntoIterator<Item = &'a File>) -> Vec<Digest> {
    files.into_iter().map(|file| file.rows_digest).collect()
}

/// One digest of a list of shards whose pictures are read.
pub(crate) fn parts(parts: &[Part]) -> Digest {
    let digests: Vec<Digest> = parts.iter().map(Part::digest_with_pixels).collect();
    combined(&digests)
}

/// One digest per dataset whose pictures are read.
pub(crate) fn data(data: &[Data]) -> Vec<Digest> {
    data.iter().map(|data| parts(&data.parts)).collect()
}

/// One digest of a list of shards whose pictures are not read.
pub(crate) fn metadata_of_parts(parts: &[Part]) -> Digest {
    let digests: Vec<Digest> = parts.iter().map(Part::digest_of_metadata).collect();
    combined(&digests)
}

/// One digest per dataset whose pictures are not read.
pub(crate) fn metadata_of_data(data: &[Data]) -> Vec<Digest> {
    data.iter()
        .map(|data| metadata_of_parts(&data.parts))
        .collect()
}

fn combined(digests: &[Digest]) -> Digest {
    Digest::of_parts(digests.iter().map(|digest| &digest.0[..]))
}
