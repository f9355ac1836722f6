//! Recipe hashes: what a task's output is a function of.

use serde::Serialize;

use crate::id::{Digest, RecipeHash};
use crate::stage::Kind;

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
}

/// The recipe of one task.
///
/// - `step`: which step of the stage (`pages`, `images`); empty for a stage of one step.
/// - `seed`: the run's, for stages that draw; `None` where nothing is drawn.
/// - `config`: the effective settings that shape the output. Names of stages are
///   no part of it; callers blank them.
/// - `models`, `inputs`: digests of models, and of rows without times.
pub fn hash(
    kind: &Kind,
    step: &str,
    seed: Option<u64>,
    config: &impl Serialize,
    models: &[Digest],
    inputs: &[Digest],
) -> RecipeHash {
    let recipe = Recipe {
        kind: kind.name(),
        version: kind.version(),
        step,
        seed,
        config,
        models,
        inputs,
    };
    let json = serde_json::to_vec(&recipe).expect("settings are plain data");
    RecipeHash(Digest::of(&json))
}
